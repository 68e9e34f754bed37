"""How a model file is opened with its own library, for the model card: one row for each suffix."""

# What Hugging Face calls the library that opens a file.
LIBRARIES = {".keras": "keras", ".tflite": "litert", ".onnx": "onnx", "": "tensorflow"}

# Python code from `pixels` to `scores`; `{name}` is the name of the file.
SNIPPETS = {
    ".keras": """\
import keras

model = keras.models.load_model("{name}")
scores = model.predict(pixels)""",
    ".tflite": """\
from ai_edge_litert.interpreter import Interpreter

model = Interpreter("{name}")
entry, exit = model.get_input_details()[0], model.get_output_details()[0]
model.resize_tensor_input(entry["index"], pixels.shape)
model.allocate_tensors()
model.set_tensor(entry["index"], pixels)
model.invoke()
scores = model.get_tensor(exit["index"])""",
    ".onnx": """\
import onnxruntime

model = onnxruntime.InferenceSession("{name}")
scores = model.run(None, {{model.get_inputs()[0].name: pixels}})[0]""",
    "": """\
import tensorflow as tf

model = tf.saved_model.load("{name}")
scores = model.serve(pixels)""",
}
