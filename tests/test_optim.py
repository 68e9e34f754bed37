"""SGD follows PyTorch's arithmetic: four steps of ResNet-18 that PyTorch computed in float64."""

import numpy as np
import pytest

from resnet_keras import SGD
from resnet_keras.optim import Table

# In a process of its own, because the float type is a setting of the whole process.
STEPS = """
import json, sys, tempfile
import keras, numpy as np
from safetensors.numpy import save_file

keras.config.set_floatx("float64")
sys.path.insert(0, "tests/golden/parity")
from make_state import make_state
from resnet_keras import SGD, ResNet
from resnet_keras.layers import BatchNormalization
from resnet_keras.optim import Table
from resnet_keras.weights import load_weights

golden = "tests/golden/parity/resnet18_cifar10_b8"
meta, reference = json.load(open(golden + ".json")), np.load(golden + ".npz")
model = ResNet("resnet18_cifar", include_preprocessing=False, classifier_activation=None,
               norm=BatchNormalization)
with tempfile.TemporaryDirectory() as folder:
    save_file(make_state(meta), folder + "/state.safetensors")
    load_weights(model, folder + "/state.safetensors")
images = np.random.default_rng(1).standard_normal(meta["input_shape"]).astype("float32")
images = images.transpose(0, 2, 3, 1).astype("float64")
model.compile(SGD(Table([0.01, 0.01, 0.001, 0.001]), momentum=0.9, weight_decay=1e-4),
              keras.losses.SparseCategoricalCrossentropy(from_logits=True))
losses = [model.train_on_batch(images, reference["labels"]) for _ in range(4)]
assert np.abs(np.array(losses) - reference["losses"]).max() < 1e-10, losses

def ours(key):
    stem = "backbone.bn1." in key
    layer = "conv1_bn" if stem else "predictions"
    name = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
            "running_var": "moving_variance"}[key.rpartition(".")[2]]
    return np.array(getattr(model.get_layer(layer), name).numpy())

for name in ("weight", "bias", "running_mean", "running_var"):
    key = "backbone.bn1." + name
    assert np.abs(ours(key) - reference["final/" + key]).max() < 1e-10, key
"""


def test_four_steps_of_resnet18_are_pytorchs(run_python):
    done = run_python("-c", STEPS)
    assert done.returncode == 0, done.stderr


def steps(optimizer, gradients, start=1.0):
    """Follow one scalar parameter through a list of gradients."""
    import keras

    variable = keras.Variable(np.array([start]), dtype="float64", name="kernel")
    optimizer.build([variable])
    path = []
    for gradient in gradients:
        optimizer.apply([np.array([gradient])])
        path.append(float(np.asarray(variable)[0]))
    return path


@pytest.mark.parametrize("nesterov", [False, True])
def test_three_steps_by_hand(nesterov):
    w, b, expected = 1.0, 0.0, []
    for gradient, rate in zip((0.5, -0.2, 0.1), (0.1, 0.1, 0.01), strict=True):
        g = gradient + 0.01 * w
        b = 0.9 * b + g
        w -= rate * (g + 0.9 * b if nesterov else b)
        expected.append(w)
    ours = SGD(Table([0.1, 0.1, 0.01]), momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    # Rates are float32 here.
    assert steps(ours, (0.5, -0.2, 0.1)) == pytest.approx(expected, rel=1e-7)


def test_excluded_parameters_do_not_decay():
    assert steps(SGD(0.1, weight_decay=0.5, exclude=("kernel",)), [0.0]) == [1.0]
    assert steps(SGD(0.1, weight_decay=0.5, exclude=("gamma",)), [0.0]) == pytest.approx([0.95])


@pytest.mark.parametrize("arguments", [{"momentum": 1.0}, {"weight_decay": -1}, {"nesterov": True}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="Received: "):
        SGD(0.1, **arguments)


def test_table_keeps_its_last_rate():
    table = Table([0.3, 0.2])
    assert [float(table(i)) for i in (0, 1, 2, 99)] == pytest.approx([0.3, 0.2, 0.2, 0.2])
