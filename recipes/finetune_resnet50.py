"""ResNet-50 on a folder of your own images, from ImageNet weights and with a new last layer.

    python recipes/finetune_resnet50.py --weights resnet50.pth --dataset folder:my_images

Not measured here; the recipe is ours. The folder has one subfolder for each class, or `train/` and
`val/` with one subfolder for each class in both.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50",
    dataset="folder:images",
    skip_head=True,                           # a new last layer, for the classes of the folder
    train_size=224, min_area=0.08, flip=True,
    eval_resize=256, eval_size=224, antialias=True,
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
    optimizer="sgd", momentum=0.9,
    batch_size=8, learning_rate=0.01,
    weight_decay=1e-4,
    epochs=30, schedule="step", milestones=(10, 20),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
