"""A folder of images such as people have: eight classes of unequal size, and some bad files.

    python tools/example_images.py FOLDER [--data-dir FOLDER]

PNG files of four classes of scikit-learn's digits and four of Fashion-MNIST. Of a pair, one class
has ten times as many images as the other: 170 and 17 digits, 600 and 60 articles. Three more files
are damaged, as downloads are. Fashion-MNIST is read from Debian's package dataset-fashion-mnist, or
downloaded (31 MB).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_keras.console import exit_with_one_line, load_tensorflow
from resnet_keras.errors import InputError

# Name, class number in its data set, and number of images.
DIGITS = (("1", 1, 170), ("7", 7, 17), ("3", 3, 170), ("9", 9, 17))
ARTICLES = (("shirt", 6, 600), ("t-shirt", 0, 60), ("sneaker", 7, 600), ("sandal", 5, 60))


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", help="of the prepared Fashion-MNIST")
    options = parser.parse_args()
    exit_with_one_line()
    if options.folder.exists():
        raise InputError(f"this folder is there already: name another. Received: {options.folder}")
    load_tensorflow()
    counts = write(options.folder, options.data_dir)
    print(
        f"{options.folder}: {sum(counts.values()):,} images of {len(counts)} classes, 3 bad files"
    )


def write(folder: Path, data_dir: str | None = None) -> dict[str, int]:
    """Write the images, and return how many there are of each class."""
    from sklearn.datasets import load_digits

    from resnet_keras.data import Source

    digits = load_digits()
    fashion = Source("fashion_mnist", "train", data_dir=data_dir).open()
    articles, numbers = fashion.arrays
    _write(folder, DIGITS, np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target)
    _write(folder, ARTICLES, articles[..., 0], numbers)
    good = (folder / "shirt" / "000.png").read_bytes()
    (folder / "shirt" / "cut off.png").write_bytes(good[: len(good) // 2])
    (folder / "7" / "empty.png").write_bytes(b"")
    (folder / "sandal" / "not found.jpg").write_bytes(b"<!DOCTYPE html><title>404</title>")
    return {name: count for name, _, count in DIGITS + ARTICLES}


def _write(folder: Path, classes: tuple, images: np.ndarray, labels: np.ndarray) -> None:
    """Write the first images of some classes."""
    for name, number, count in classes:
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images[labels == number][:count]):
            Image.fromarray(image).save(folder / name / f"{i:03}.png")


if __name__ == "__main__":
    main()
