"""Find a TFDS builder by name, and its features that are the image and the label."""

import contextlib
import difflib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from resnet_keras.errors import InputError
from resnet_keras.internals.tfds import default_data_dir

# Where the test images begin: see `Digits`.
_FIRST_TEST = 1437


def read_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of `Digits` of a split, without preparing a data set.

    Args:
        split: "train" or "test".

    Returns:
        Images, uint8 `(n, 8, 8)`, of 17 levels from 0 to 255, and what they are, int64 `(n,)`.
    """
    from sklearn.datasets import load_digits

    chosen = {"train": slice(0, _FIRST_TEST), "test": slice(_FIRST_TEST, None)}[split]
    digits = load_digits()
    grey = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    return grey, digits.target[chosen].astype(np.int64)


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's handwritten digits: 1797 grey images of 8x8, no download.

    The last 360 are the test images: in the order of the UCI source, they were written by other
    people than the first 1437.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples("train", 0),
            "test": self._generate_examples("test", _FIRST_TEST),
        }

    def _generate_examples(self, split: str, first: int):
        for i, (grey, label) in enumerate(zip(*read_digits(split), strict=True), start=first):
            yield i, {"image": grey[..., None], "label": int(label)}


@contextlib.contextmanager
def _nothing_left() -> Iterator[None]:
    """Delete the temporary folder that TFDS makes for each builder not prepared yet, and leaves."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def find_builder(dataset: str, data_dir: str | Path | None) -> tfds.core.DatasetBuilder:
    """Find TFDS' builder of a data set.

    Raises:
        InputError: no such data set, or a name that several data sets share.
    """
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    if dataset == "digits":
        with _nothing_left():
            return Digits(data_dir=data_dir)
    # Without those of the community, for which TFDS asks the network.
    known = tfds.list_builders(with_community_datasets=False)
    prepared = Path(data_dir or default_data_dir()) / dataset
    if re.split("[:/]", dataset)[0] in known or prepared.is_dir():
        try:
            with _nothing_left():
                builder = tfds.builder(dataset, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError):
            pass  # no such configuration, or a folder that holds something else
        except AssertionError as error:  # no such version
            reason = str(error).rpartition('": ')[2].rstrip(".")
            raise InputError(f"{reason}. Received: dataset={dataset!r}") from None
        except FileNotFoundError as error:  # TFDS' packages lack files of some data sets
            raise InputError(
                f"the installed version of tensorflow-datasets cannot open {dataset} "
                f"({str(error).rpartition('] ')[2]}). Install another version, or choose another "
                f"data set. Received: dataset={dataset!r}"
            ) from None
        else:
            _demand_corruption(dataset, builder)
            return builder
    # A set, because `digits` is registered, too.
    near = difflib.get_close_matches(dataset, sorted({"digits", *known}))
    hint = f"; similar names: {', '.join(near)}" if near else ""
    raise InputError(
        "no such data set: give `digits`, a name in TFDS, or your own images, such as `folder:PATH`"
        f"{hint}. Received: dataset={dataset!r}"
    )


def _demand_corruption(dataset: str, builder: tfds.core.DatasetBuilder) -> None:
    """Refuse the corrupted ImageNet, 95 data sets: TFDS would choose the mildest noise."""
    if builder.name == "imagenet2012_corrupted" and "/" not in dataset:
        raise InputError(
            f"{dataset} has {len(builder.BUILDER_CONFIGS)} variants: name one of them, such as "
            f"{dataset}/gaussian_noise_3. Received: dataset={dataset!r}"
        )


def image_and_label(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """Find the names of the features that are the image and the label.

    Raises:
        InputError: there are none, or an image has several labels.
    """
    features = builder.info.features
    of = {
        kind: [name for name, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    }
    several = [
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Sequence)
        and isinstance(feature.feature, tfds.features.ClassLabel)
    ]
    if of[tfds.features.Image] and several:
        raise InputError(
            f"{builder.name} has several labels per image ({', '.join(several)}), but one is "
            f"needed. Received: dataset={builder.name!r}"
        )
    if not all(of.values()):
        raise InputError(
            f"{builder.name} has no images with labels. Received: dataset={builder.name!r}"
        )
    label = of[tfds.features.ClassLabel]
    return of[tfds.features.Image][0], "label" if "label" in label else label[0]
