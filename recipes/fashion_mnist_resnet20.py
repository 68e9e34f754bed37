"""ResNet-20 on Fashion-MNIST as Zhong et al. (Random Erasing) trained it: 95.61 % top-1 published.

Not measured here.

    python recipes/fashion_mnist_resnet20.py

The pictures are taken from Debian's package dataset-fashion-mnist where it is installed, else they
are downloaded. The published figure is for an earlier release of the data set; the epochs at which
the rate drops are from memory of the authors' code, not checked.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet20_cifar",
    dataset="fashion_mnist",
    train_size=28, padding=4, flip=True,
    eval_size=28,
    mean=(72.94,), std=(90.02,),              # of the training pictures
    optimizer="sgd", momentum=0.9,
    batch_size=128, learning_rate=0.1,
    weight_decay=5e-4,
    epochs=300, schedule="step", milestones=(150, 225),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
