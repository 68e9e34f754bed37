"""ResNet-50 on ImageNet-1k with LARS, a submission to MLPerf Training 4.0: 76.07 % top-1 published.

    python recipes/imagenet_resnet50_lars.py --data-dir ~/tensorflow_datasets

Not measured here. For the largest batches that one machine holds: NVIDIA's submission reached
76.07 % in epoch 35 of 37, on 8 GPUs with 400 images each, so batch norm saw 400 images at a time.
The learning rate follows MLPerf's rules: it rises from 0, and falls with the square of the steps
that are left. The submission multiplies the momentum by the ratio of this step's learning rate to
that of the step before; LARS (You et al. 2017) does not, nor does MLPerf's own reference.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50",
    dataset="imagenet2012",
    train_size=224, min_area=0.05, flip=True,
    eval_resize=256, eval_size=224,
    interpolation="bilinear", antialias=True,
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
    loss="softmax", label_smoothing=0.1,
    optimizer="lars", momentum=0.9, trust_coefficient=0.001, epsilon=0.0,
    batch_size=3200, learning_rate=11.0,
    weight_decay=5e-5, exclude=("bias", "gamma", "beta"),  # neither decayed nor scaled
    epochs=37, schedule="poly", power=2.0, min_learning_rate=1e-4,
    warmup_epochs=2, warmup_start=0.0, warmup_peak="after",
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
