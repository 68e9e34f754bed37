"""A small network on a folder of your own small images, in minutes on a laptop.

    python recipes/own_images.py --dataset folder:my_images

Not measured here on images of yours; on those of tools/example_images.py, see README.md. The recipe
is ours. The folder has one subfolder for each class, or `train/`, `val/` and `test/` with these.
For larger images, see finetune_resnet50.py.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet20_cifar",
    dataset="folder:images",
    train_size=28, padding=2, rotate=10, scale=0.1,
    eval_size=28,
    mean=(127.5,), std=(127.5,), channels=1,
    optimizer="sgd", momentum=0.9, nesterov=True,
    batch_size=64, learning_rate=0.05,
    weight_decay=5e-4,
    epochs=10, schedule="cosine", warmup_epochs=1,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
