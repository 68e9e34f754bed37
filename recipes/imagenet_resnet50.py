"""ResNet-50 on ImageNet-1k as OpenMMLab trained it: 76.55 % top-1, 93.06 % top-5 published.

    python recipes/imagenet_resnet50.py --data-dir ~/tensorflow_datasets

Not measured here. OpenMMLab trained on 8 GPUs with 32 images each, so batch norm saw 32 images at a
time. On fewer GPUs it sees more.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50",
    dataset="imagenet2012",
    train_size=224, min_area=0.08, flip=True,
    eval_resize=256, eval_size=224, antialias=False,
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
    optimizer="sgd", momentum=0.9,
    batch_size=256, learning_rate=0.1,
    weight_decay=1e-4,                   # in the gradient of every parameter, as in the original
    epochs=100, schedule="step", milestones=(30, 60, 90),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
