"""ResNet-50 on CIFAR-100 as OpenMMLab trained it: 79.90 % top-1, 95.19 % top-5 published.

    python recipes/cifar100_resnet50.py

Not measured here. OpenMMLab trained on 8 GPUs with 16 images each, so batch norm saw 16 images at a
time. On fewer GPUs it sees more.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50_cifar",
    dataset="cifar100",
    train_size=32, padding=4, flip=True,      # zeros around the image, then a random crop
    eval_size=32,
    mean=(129.304, 124.070, 112.434), std=(68.170, 65.392, 70.418),
    optimizer="sgd", momentum=0.9,
    batch_size=128, learning_rate=0.1,
    weight_decay=5e-4,                        # in the gradient of every parameter
    epochs=200, schedule="step", milestones=(60, 120, 160), milestone_factor=0.2,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
