import cv2
from exchange import images, model, planes, save

if model.endswith(".tflite"):  # its importer runs one image at a time
    net, scores = cv2.dnn.readNetFromTFLite(model), []
    for image in planes():
        net.setInput(image[None])
        scores.append(net.forward()[0])
else:
    net = cv2.dnn.readNetFromONNX(model)
    net.setInput(images.astype("float32") if "nhwc" in model else planes())
    scores = net.forward()
save(scores)
