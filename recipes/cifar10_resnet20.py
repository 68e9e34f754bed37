"""ResNet-20 on CIFAR-10 as in the ResNet paper (He et al. 2015, table 6): 91.25 % top-1 published.

    python recipes/cifar10_resnet20.py

Not measured here. The network has option A shortcuts and is trained for 64,000 steps. The paper
subtracts the mean of each pixel; here, as in most reproductions, pixels are normalised per channel.
To choose the schedule, the paper held out 5,000 training images; the published accuracy is that of
a training on all 50,000, as here.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet20_cifar",
    dataset="cifar10",
    train_size=32, padding=4, flip=True,
    eval_size=32,
    mean=(125.307, 122.961, 113.8575), std=(51.5865, 50.847, 51.255),
    optimizer="sgd", momentum=0.9,
    batch_size=128, learning_rate=0.1,
    weight_decay=1e-4,
    steps=64_000, schedule="step", milestones=(32_000, 48_000),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
