"""An ImageNet of JPEGs that cost what ImageNet's cost, for measurements without ImageNet.

    python tools/synthetic_imagenet.py FOLDER [--images 5000] [--test-images 500]

Writes `imagenet2012` as TFDS prepares it: TFRecords of JPEGs of 500x375 pixels, quality 95, which
are crops of scikit-learn's two photographs, half of them mirrored. The label is the number of the
crop's place, so there is something to learn. Then `--data-dir FOLDER` trains on it.
"""

import argparse
import io
from concurrent.futures import ThreadPoolExecutor

WIDTH, HEIGHT, CLASSES = 500, 375, 1000


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, default=500)
    options = parser.parse_args()
    write(options.folder, {"train": options.images, "validation": options.test_images})


def write(folder: str, numbers: dict[str, int]) -> None:
    """Write the splits, each with a number of images."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet2012",
        version="5.1.0",
        features=features,
        split_datasets={name: list(enumerate(examples(n))) for name, n in numbers.items()},
        data_dir=folder,
        disable_shuffling=False,
    )


def examples(number: int):
    """Yield examples as TFDS has them, as many as asked for."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images

    def example(index: int) -> dict:
        image, label = crop(photographs, index)
        return {"image": io.BytesIO(image), "label": label, "file_name": f"{index:06d}.JPEG"}

    with ThreadPoolExecutor() as pool:
        yield from pool.map(example, range(number))


def crop(photographs: list, index: int) -> tuple[bytes, int]:
    """A crop of one of the photographs as a JPEG, and its label."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(index)
    photograph = photographs[index % len(photographs)]
    top = int(rng.integers(photograph.shape[0] - HEIGHT + 1))
    left = int(rng.integers(photograph.shape[1] - WIDTH + 1))
    pixels = photograph[top : top + HEIGHT, left : left + WIDTH]
    if mirrored := bool(rng.integers(2)):
        pixels = pixels[:, ::-1]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    place = (index % len(photographs)) * 2 + mirrored
    return file.getvalue(), place * 250 + (top * 250) // photograph.shape[0]


if __name__ == "__main__":
    main()
