"""ResNet-18 on CIFAR-10 as OpenMMLab trained it: 94.82 % top-1, 99.87 % top-5 published.

    python recipes/cifar10_resnet18.py

Not measured here. OpenMMLab trained on 8 GPUs with 16 images each, so batch norm saw 16 images at a
time. On fewer GPUs it sees more.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet18_cifar",
    dataset="cifar10",
    train_size=32, padding=4, flip=True,      # zeros around the image, then a random crop
    eval_size=32,
    mean=(125.307, 122.961, 113.8575), std=(51.5865, 50.847, 51.255),
    optimizer="sgd", momentum=0.9,
    batch_size=128, learning_rate=0.1,
    weight_decay=1e-4,                        # in the gradient of every parameter
    epochs=200, schedule="step", milestones=(100, 150),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
