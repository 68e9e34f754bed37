"""ResNet-20 on Fashion-MNIST, fine-tuned for int8. The recipe is ours; nobody published one.

    python recipes/fashion_mnist_resnet20_int8.py

Not measured here. It starts from the model that `python recipes/fashion_mnist_resnet20.py` trains.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import fashion_mnist_resnet20

RECIPE = replace(
    fashion_mnist_resnet20.RECIPE,
    weights="runs/fashion_mnist_resnet20/model.keras",
    quantize=True,
    precision="float32",                      # bfloat16 rounds about as coarsely as int8
    learning_rate=0.001,
    weight_decay=0.0,                         # no batch norm is left to make up for it
    epochs=10, schedule="cosine", milestones=(),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
