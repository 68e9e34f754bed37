"""ResNet-50 on ImageNet-1k, fine-tuned for images of 384 pixels (FixRes): 79.0 % top-1 published.

    python recipes/imagenet_resnet50_fixres.py --data-dir ~/tensorflow_datasets

Not measured here. Touvron et al. 2019, "Fixing the train-test resolution discrepancy", trained
ResNet-50 at 224 pixels to 77.0 %, then fine-tuned the head at 384 pixels, on images that are
prepared as in evaluation, to 79.0 %. The statistics of the last batch norm follow these images; its
gamma and beta, as everything else, stay. All values are those of the authors' code
(github.com/facebookresearch/FixRes: main_finetune.py with --input-size 384 --epochs 56 --batch 64
--num-tasks 8 --learning-rate 1e-3, which it multiplies with 8). Each of its 8 GPUs computed the
statistics of its own 64 images; here they are those of a replica.

`--weights` may be anybody's ResNet-50; by default it is OpenMMLab's, which has 76.55 %. That of the
authors, which has 77.0 %, is the file ResNet_no_adaptation.pth, which their page links.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet50",
    weights="imagenet", freeze=4, adapt_last_norm=True,
    dataset="imagenet2012",
    train_resize=438, train_size=384,         # 256 / 224 x 384, rounded down
    eval_resize=438, eval_size=384,
    interpolation="bilinear", antialias=True,
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375),
    loss="softmax",
    optimizer="sgd", momentum=0.9, nesterov=False,
    batch_size=512, learning_rate=0.008,
    weight_decay=1e-4,
    epochs=56, schedule="step", milestones=(30,),
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
