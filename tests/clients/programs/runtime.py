import onnxruntime
from exchange import images, model, planes, save

session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
pixels = images.astype("float32") if "nhwc" in model else planes()
save(session.run(None, {"images": pixels})[0])
