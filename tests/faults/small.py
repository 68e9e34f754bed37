"""A recipe as a user writes one: a network of 5,000 parameters with all that a resume must keep."""

from resnet_keras import SPECS, Recipe, Spec, train

SPECS["small"] = Spec("basic", (1, 1, 1), (4, 8, 16), stem="cifar", shortcut="pad")

RECIPE = Recipe(
    model="small",
    dataset="digits",
    train_size=8, padding=1, rotate=15,
    eval_size=8,
    mean=(127.5,), std=(127.5,),
    mixup=0.2, drop_path=0.1, ema=0.9, ema_every=5, ema_after_warmup=True,
    batch_size=128, learning_rate=0.1,
    epochs=4, schedule="cosine", warmup_epochs=1,
    precision="float32", deterministic=True,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
