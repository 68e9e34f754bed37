"""Find the classifier among the names of PyTorch's files, whatever its authors called it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from resnet_keras.text import shortened

# What people call the last layer of a classifier.
_HEADS = frozenset(
    "fc classifier linear last_linear head logits cls cls_head classification_head output".split()
)

# Where self-supervised training keeps more than the backbone.
_PROJECTIONS = re.compile(r"proj|predictor|prototype|queue|center|embed|memory")

# The head of DINO.
_DINO = re.compile(r"mlp\.\d+\.\w+|last_layer\..+")

# What training leaves beside a network: losses, measures, averages and their counters.
_BOOKKEEPING = re.compile(
    r"((.+[._])?(loss(es)?|loss_fn|criterion|acc|accuracy|metrics?|f1|auroc|precision|recall|ema"
    r"|confmat|confusion_matrix)"
    r"|(train|val|valid|test)_.+|n_averaged|(.+\.)?(pixel_)?(mean|std)|num_updates)(\d*|[._].+)"
)

# What a number computes with: the exponent of a generalised mean, the scale of cosines.
_FACTORS = re.compile(r"(.+[._])?(p|s|sigma|tau|scale|temperature)")


class Head(NamedTuple):
    """What was found.

    Attributes:
        name: of the only linear layer, `head.fc` or `fc.1`; None where there is none.
        problem: what there is, where it is more than that; else "".
        projects: whether what is there is no classifier, but what self-supervised training has.
    """

    name: str | None
    problem: str = ""
    projects: bool = False


def head_of(outside: Mapping[str, np.ndarray], prefix: str, features: int | None) -> Head:
    """Find the last layer of a classifier.

    Args:
        outside: the file's arrays that are not the backbone's.
        prefix: of the backbone's names.
        features: what the backbone gives it; None where that is open.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, array in outside.items():
        start = len(prefix) if key.startswith(prefix) else 0
        words = key[start:].split(".")[:-1]
        for number, word in enumerate(words, 1):
            if _PROJECTIONS.search(word):
                break
            if word in _HEADS:
                name = key[:start] + ".".join(words[:number])
                groups.setdefault(name, {})[key[len(name) + 1 :]] = array
                break
    heads = {name: group for name, group in groups.items() if _classifies(group)}
    if not heads:
        return _unnamed(outside, features)
    if all(_DINO.fullmatch(key) for group in heads.values() for key in group):
        return Head(None, projects=True)
    if len(heads) > 1:
        return Head(None, f"{len(heads)} heads, {_listed(heads)}")
    ((name, group),) = heads.items()
    kernels = [key for key, array in group.items() if array.ndim >= 2]
    layer = kernels[0].rpartition(".")[0]
    inner = f"{layer}." if layer else ""
    rest = {
        k
        for k, a in group.items()
        if not is_bookkeeping(k) and (a.size > 1 or is_factor(k)) or a.ndim >= 2
    }
    if (
        kernels == [f"{inner}weight"]
        and group[kernels[0]].ndim == 2
        and rest <= {f"{inner}weight", f"{inner}bias"}
    ):
        found = f"{name}.{layer}" if layer else name
        if not (behind := _behind(found, group[kernels[0]], outside, prefix)):
            return Head(found)
        stacked = {f"{key} {outside[key].shape} behind {found}": None for key in behind}
        return Head(None, f"a head of more than one linear layer, {_listed(stacked)}")
    shapes = {f"{name}.{key} {group[key].shape}": None for key in sorted(rest)}
    return Head(None, f"a head of more than one linear layer, {_listed(shapes)}")


def _behind(
    head: str, kernel: np.ndarray, outside: Mapping[str, np.ndarray], prefix: str
) -> list[str]:
    """Matrices that take what a linear layer gives: a new classifier behind the old one."""
    return [
        key
        for key, array in outside.items()
        if array.ndim == 2
        and array.shape[1] == len(kernel)
        and not key.startswith(f"{head}.")
        and not is_bookkeeping(key.removeprefix(prefix))
    ]


def is_factor(key: str) -> bool:
    """Whether the name of a single number says that a network computes with it."""
    return _FACTORS.fullmatch(key) is not None


def is_bookkeeping(key: str) -> bool:
    """Whether a name, without the backbone's prefix, is something that only training needs."""
    return _BOOKKEEPING.fullmatch(key) is not None


def _classifies(group: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors are a classifier's: those that look at neighbourhoods draw maps."""
    kernels = [array.shape for array in group.values() if array.ndim >= 2]
    return bool(kernels) and all(set(shape[2:]) <= {1} for shape in kernels)


def _unnamed(outside: Mapping[str, np.ndarray], features: int | None) -> Head:
    """The only matrix, whatever its name, if it is as wide as the features."""
    matrices = [
        key
        for key, array in outside.items()
        if array.ndim == 2 and not _PROJECTIONS.search(key) and not is_bookkeeping(key)
    ]
    # Where there are kernels, too, it is a detector; statistics of pixels are none.
    if any(array.ndim == 4 and max(array.shape[2:]) > 1 for array in outside.values()):
        return Head(None)
    if not matrices:
        return Head(None, projects=any(map(_PROJECTIONS.search, outside)))
    name, _, last = matrices[0].rpartition(".")
    if len(matrices) == 1 and last == "weight" and outside[matrices[0]].shape[1] == features:
        return Head(name)
    shapes = {f"{key} {outside[key].shape}": None for key in matrices}
    return Head(None, f"matrices that may be a head, {_listed(shapes)}")


def _listed(names: Mapping[str, object]) -> str:
    return shortened(", ".join(names), most=200)
