"""Compare four ways to train ResNet-20 on Fashion-MNIST, with several seeds each.

    python tools/trial.py
    python tools/trial.py --images 6000

The ways are our short recipe and the same with TrivialAugmentWide, with an average of the weights,
and with distillation from a network of twice the width, which is trained first. Runs that are
finished are not trained again, and one that was interrupted is resumed. The table at the end has
mean and standard deviation of the accuracy on the test images after the last epoch; all
accuracies are in trial.json.

With all images it takes ten hours of two cores. With --images, only the first N are trained on,
the last 1,000 of the training images are tested after each epoch, and all test images at the end.
"""

import argparse
import csv
import dataclasses
import json
import statistics
from pathlib import Path

import tensorflow_datasets as tfds

from resnet_keras import SPECS, Recipe, train
from resnet_keras.data import prepare
from resnet_keras.files import whole, write_text
from resnet_keras.recipes.fashion_mnist_resnet20_short import RECIPE

# A network for this comparison alone.
WIDE = "resnet20_cifar_wide"


def ways(recipe: Recipe, teacher: str) -> dict[str, Recipe]:
    """Return the recipes that are compared, by what each of them adds."""
    return {
        "short recipe": recipe,
        "TrivialAugmentWide": dataclasses.replace(recipe, policy="trivial_augment_wide"),
        "average of the weights, 0.999": dataclasses.replace(recipe, ema=0.999),
        "distillation": dataclasses.replace(recipe, teacher=teacher),
    }


def write_images(
    folder: Path,
    images: int,
    *,
    validation: int = 1000,
    dataset: str = "fashion_mnist",
    data_dir: Path | None = None,
) -> Path:
    """Write the first training images, the last ones for validation, and all test images.

    Returns:
        The list of them, as `csv:` reads it. What a comparison that is resumed has is kept.
    """
    if (listed := folder / "images.csv").exists():
        return listed
    prepare(dataset, data_dir=data_dir)
    splits = {"train": f"train[:{images}]", "val": f"train[-{validation}:]", "test": "test"}
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("image", "label", "split")]
    for name, split in splits.items():
        records = tfds.load(
            dataset, split=split, data_dir=data_dir, download=False,
            decoders={"image": tfds.decode.SkipDecoding()},
        )  # fmt: skip
        for number, record in enumerate(tfds.as_numpy(records)):
            path = folder / f"{name}-{number}.png"
            path.write_bytes(record["image"])
            rows.append((path.name, str(record["label"]), name))
    with whole(listed) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return listed


def finished(recipe: Recipe) -> float:
    """Train a recipe, unless that was done, and return its top-1 accuracy, 0 to 1."""
    folder = train(recipe)
    return json.loads((folder / "results.json").read_text())["top1"]


def row(name: str, found: list[float]) -> str:
    """Return a line of the table: accuracies in per cent."""
    spread = f" +- {100 * statistics.stdev(found):.2f}" if len(found) > 1 else ""
    each = ", ".join(f"{100 * top1:.2f}" for top1 in found)
    return f"| {name} | {100 * statistics.mean(found):.2f}{spread} | {each} |"


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 on")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/trial"), help="for all runs")
    parser.add_argument("--images", type=int, metavar="N", help="train on so many only")
    options = parser.parse_args()
    if options.images is not None and not 0 < options.images <= 59_000:
        parser.error(f"--images must be 1 to 59,000: 1,000 are for validation: {options.images}")

    SPECS[WIDE] = dataclasses.replace(SPECS["resnet20_cifar"], widths=(32, 64, 128))
    base = dataclasses.replace(RECIPE, epochs=options.epochs, logger="none")
    if options.images:
        listed = write_images(options.run_dir / f"images-{options.images}", options.images)
        base = dataclasses.replace(base, dataset=f"csv:{listed}", channels=1)
    teacher = dataclasses.replace(base, model=WIDE, run_dir=options.run_dir / "teacher")
    recipes = ways(base, str(options.run_dir / "teacher" / "model.keras"))
    found: dict[str, list[float]] = {name: [] for name in recipes}
    taught = finished(teacher)
    print(row("teacher", [taught]), flush=True)
    for seed in range(options.seeds):  # so that what is there early is a comparison
        for number, (name, recipe) in enumerate(recipes.items()):
            folder = options.run_dir / f"{number}-{seed}"
            found[name].append(finished(dataclasses.replace(recipe, seed=seed, run_dir=folder)))
            print(row(name, found[name]), flush=True)
    print(f"\n| {options.epochs} epochs | top-1 in % | each seed |\n|---|---:|---:|")
    print("\n".join(row(name, each) for name, each in found.items()))
    accuracies = {
        "epochs": options.epochs, "images": options.images, "teacher": taught, "top1": found,
    }  # fmt: skip
    write_text(options.run_dir / "trial.json", json.dumps(accuracies, indent=1) + "\n")


if __name__ == "__main__":
    main()
