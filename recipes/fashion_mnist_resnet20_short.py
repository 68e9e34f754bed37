"""ResNet-20 on Fashion-MNIST in a fifth of the epochs, on a schedule of ours that suits a CPU.

    python recipes/fashion_mnist_resnet20_short.py

94.96 % top-1 measured here: after the last epoch, with seed 0, on 2 CPU cores.

The published recipe is fashion_mnist_resnet20.py. This one has smaller batches, less weight decay,
Nesterov momentum, and a learning rate that falls along a cosine.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import fashion_mnist_resnet20

RECIPE = replace(
    fashion_mnist_resnet20.RECIPE,
    mean=(72.94,), std=(90.02,),              # of the training images
    nesterov=True, batch_size=64, weight_decay=2e-4,
    epochs=60, schedule="cosine", milestones=(), warmup_epochs=1,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
