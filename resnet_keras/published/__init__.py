"""Published weights by name: where each file is, and how its authors prepared images."""

import csv
import difflib
import functools
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.specs import SPECS

# Whose weights they are: what a name begins with.
PROVIDERS = ("openmmlab", "torchvision", "timm", "keras", "keras_hub")

_NAME = re.compile(rf"({'|'.join(PROVIDERS)})/[\w.@-]+")

# Data sets of TFDS, by the number of their classes.
_DATASETS = {1000: "imagenet2012", 10: "cifar10", 100: "cifar100", 200: "caltech_birds2011"}

# Which of a model's rows "imagenet" is: the first of these kinds that it has. OpenMMLab's come
# first, because they are the rows of the tables and were evaluated as our recipes are.
_DEFAULTS = (
    "openmmlab/{model}_8xb32_in1k",
    "timm/resnet{depth}d.ra2_in1k",
)


@dataclass(frozen=True)
class Pretrained:
    """A published file of weights, together with one size of the images that it was evaluated on.

    Attributes:
        name: as `weights` takes it, `PROVIDER/NAME`. Where a file was evaluated on two sizes, the
            row of the size that it was trained with has the plain name, the other one `NAME@SIZE`.
        model: name in `SPECS`.
        classes: number of classes of its head.
        url: of the file, `https://` or `hf://ORG/REPO`.
        sha256: the first digits of the file's SHA-256, as its authors put them into its name; None
            where none is published.
        md5: of the file, where that is what is published.
        licence: SPDX identifier; None where none is published.
        top1: accuracy in %, as published; None where it is not.
        top5: likewise.
        preprocessing: how its authors prepared images for that accuracy.
        note: what else a user should know.
    """

    name: str
    model: str
    classes: int
    url: str
    sha256: str | None
    md5: str | None
    licence: str | None
    top1: float | None
    top5: float | None
    preprocessing: Preprocessing
    note: str | None

    @property
    def stride_in_1x1(self) -> bool:
        """Whether its bottlenecks stride as those of keras.applications: see `Spec`."""
        return self.name.startswith("keras/")

    @property
    def dataset(self) -> str:
        """The data set in TFDS on whose test images the accuracy was published."""
        return _DATASETS[self.classes]

    @property
    def commercial(self) -> bool:
        """Whether its licence allows commercial use, as far as its identifier tells."""
        return "-NC" not in (self.licence or "")

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return {**self.__dict__, "preprocessing": self.preprocessing.to_json()}

    def __str__(self) -> str:
        """Name, published accuracy and licence."""
        top1 = f", {self.top1} % top-1 published" if self.top1 is not None else ""
        return f"{self.name}{top1}, {self.licence or 'no licence published'}"


def pretrained(model: str | None = None) -> tuple[Pretrained, ...]:
    """List published weights; nothing is downloaded.

    Args:
        model: name in `SPECS`; None: of all models.

    Returns:
        The rows, in the order of the table in docs/zoo.md.

    Raises:
        InputError: (a ValueError) there is no such model.
    """
    if model is not None and model not in SPECS:
        raise InputError(f"`model` must be one of {', '.join(SPECS)}. Received: model={model!r}")
    return tuple(row for row in _table().values() if model in (None, row.model))


def is_name(source: str) -> bool:
    """Tell whether `weights` are named as published ones are, whether or not there are such."""
    return source == "imagenet" or _NAME.fullmatch(source) is not None


def find(name: str, model: str | None = None) -> Pretrained:
    """Find published weights by name.

    Args:
        name: a row's; or "imagenet", the default row of a model.
        model: name in `SPECS` of the network that is to take them, if it has one.

    Raises:
        InputError: there are no such weights, or they are of another model.
    """
    if name == "imagenet":
        return _default(model)
    row = _table().get(name)
    if row is None:
        close = difflib.get_close_matches(name, _table(), 3, 0.6)
        hint = f"; similar: {', '.join(close)}" if close else ""
        raise InputError(
            f"there are no published weights of this name{hint}. `python -m resnet_keras zoo` "
            f"lists them. Received: weights={name!r}"
        )
    if model is not None and model != row.model:
        raise InputError(f"{name} is of {row.model}. Received: a network {model}")
    return row


def _default(model: str | None) -> Pretrained:
    """The row that "imagenet" is for a model."""
    if model is None:
        raise InputError(
            "'imagenet' names no weights without the name of a model: give a name of "
            "`python -m resnet_keras zoo`. Received: weights='imagenet'"
        )
    depth = model.removeprefix("resnetv1d")
    for pattern in _DEFAULTS:
        if (row := _table().get(pattern.format(model=model, depth=depth))) and row.model == model:
            return row
    raise InputError(f"there are no published ImageNet weights of {model}.")


@functools.cache
def _table() -> dict[str, Pretrained]:
    """The rows by name."""
    text = files(__package__).joinpath("table.tsv").read_text(encoding="utf-8")
    rows = (_row(fields) for fields in csv.DictReader(text.splitlines(), delimiter="\t"))
    return {row.name: row for row in rows}


def _row(fields: dict[str, str]) -> Pretrained:
    """A line of the table."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    def channels(text: str) -> tuple[float, ...] | None:
        return tuple(map(float, text.split(","))) if text else None

    digits, md5 = fields["hash"], None
    if digits.startswith("md5:"):
        digits, md5 = "", digits.removeprefix("md5:")
    size = int(fields["size"])
    preprocessing = Preprocessing(
        (size, size),
        int(fields["resize"]) if fields["resize"] else None,
        fields["interpolation"],
        fields["antialias"] == "yes",
        channels(fields["mean"]),
        channels(fields["std"]),
    )
    return Pretrained(
        name=fields["name"],
        model=fields["model"],
        classes=int(fields["classes"]),
        url=fields["url"],
        sha256=digits or None,
        md5=md5,
        licence=fields["licence"] or None,
        top1=number(fields["top1"]),
        top5=number(fields["top5"]),
        preprocessing=preprocessing,
        note=fields["note"] or None,
    )
