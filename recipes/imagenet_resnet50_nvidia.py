"""ResNet-50 v1.5 on ImageNet-1k as NVIDIA trained it: 77.12 % top-1 published.

    python recipes/imagenet_resnet50_nvidia.py --data-dir ~/tensorflow_datasets

Not measured here. NVIDIA published 77.12 +- 0.11 % for 90 epochs in mixed precision, and
78.43 +- 0.11 % with `--epochs 250 --mixup 0.2`. The values are those of its DeepLearningExamples
(PyTorch/Classification/ConvNets/configs.yml) for 8 GPUs with 256 images each, so batch norm saw
256 images at a time; the learning rate is 0.256 for each 256 images. Its network started with
other weights: He's initialization by fan-in, and 1 as the last gamma of each block.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50",
    dataset="imagenet2012",
    train_size=224, min_area=0.08, flip=True,
    eval_resize=256, eval_size=224,
    interpolation="bilinear", antialias=True,
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
    loss="softmax", label_smoothing=0.1,
    optimizer="sgd", momentum=0.875, nesterov=False,
    batch_size=2048, learning_rate=8 * 0.256,
    weight_decay=1 / 32768, exclude=("gamma", "beta"),  # the last layer's bias decays
    epochs=90, schedule="cosine", schedule_unit="epoch",
    warmup_epochs=8, warmup_curve="stairs",
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
