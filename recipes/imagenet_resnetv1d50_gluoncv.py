"""ResNetV1D-50 on ImageNet-1k as GluonCV trained it: 78.48 % top-1, 94.20 % top-5 published.

    python recipes/imagenet_resnetv1d50_gluoncv.py --data-dir ~/tensorflow_datasets

Not measured here. GluonCV published 79.15 % top-1 and 94.58 % top-5 for `--epochs 200 --mixup 0.2`.
The values are those of its scripts/classification/imagenet/train_imagenet.py for the "bag of
tricks": images are resized as OpenCV does, without antialiasing, and the momentum is Nesterov's.
Its noise along the principal components of the colors (0.1) is left out. It trained on 8 GPUs with
128 images each, so batch norm saw 128 images at a time.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnetv1d50",
    dataset="imagenet2012",
    train_size=224, min_area=0.08, flip=True,
    color_jitter=0.4,
    eval_resize=256, eval_size=224,
    interpolation="bilinear", antialias=False,
    mean=(123.68, 116.779, 103.939), std=(58.393, 57.12, 57.375),
    loss="softmax", label_smoothing=0.1,
    optimizer="sgd", momentum=0.9, nesterov=True,
    batch_size=1024, learning_rate=0.4,
    weight_decay=1e-4, exclude=("bias", "gamma", "beta"),
    epochs=120, schedule="cosine",
    warmup_epochs=5, warmup_start=0.0,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
