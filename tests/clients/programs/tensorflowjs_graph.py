"""Convert for TensorFlow.js, and count the nodes and the weights of what it wrote."""

import json
import sys
import types

from common import folder, model, save

# Imported for models of trees, which have operators of their own.
sys.modules["tensorflow_decision_forests"] = types.ModuleType("tensorflow_decision_forests")

from tensorflowjs.converters import tf_saved_model_conversion_v2  # noqa: E402

tf_saved_model_conversion_v2.convert_tf_saved_model(model, f"{folder}/js", signature_def="serve")
graph = json.load(open(f"{folder}/js/model.json"))
save([len(graph["modelTopology"]["node"]), len(graph["weightsManifest"][0]["weights"])])
