"""ResNet-50 on ImageNet-1k, "ResNet strikes back" A1 (Wightman et al.): 80.12 % top-1 published.

    python recipes/imagenet_resnet50_rsb_a1.py --data-dir ~/tensorflow_datasets

Not measured here. The published accuracy and all values are those of OpenMMLab's configuration.
OpenMMLab trained on 8 GPUs with synchronized batch norm.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50",
    dataset="imagenet2012",
    drop_path=0.05,                                  # linear over all blocks
    sync_batch_norm=True,
    train_size=224, min_area=0.08, flip=True,
    rand_ops=2, rand_magnitude=7, rand_std=0.5,      # timm's increasing set
    mixup=0.2, cutmix=1.0,                           # in half of the batches each
    repeats=3,                                       # each image three times in a batch
    eval_resize=236, eval_size=224,
    interpolation="bicubic", antialias=True,
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
    loss="sigmoid", label_smoothing=0.1,             # summed over the classes
    optimizer="lamb", beta_1=0.9, beta_2=0.999, epsilon=1e-6, clip_norm=1.0,
    batch_size=2048, learning_rate=0.005,
    weight_decay=0.01, exclude=("bias", "gamma", "beta"),
    epochs=600, schedule="cosine", min_learning_rate=1e-6, schedule_unit="epoch",
    warmup_epochs=5, warmup_start=1e-4,              # in each step
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
