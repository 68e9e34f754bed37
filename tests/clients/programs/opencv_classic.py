import cv2
from exchange import model, planes, save

net = cv2.dnn.readNetFromONNX(model, engine=cv2.dnn.ENGINE_CLASSIC)
net.setInput(planes())
save(net.forward())
