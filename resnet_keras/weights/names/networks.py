"""Choose one of the networks that a file of self-supervised training, or of averaging, holds."""

from collections.abc import Iterable, Sequence

from resnet_keras.errors import InputError
from resnet_keras.text import shortened
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import prefixes

# Words in the names of networks that come in pairs; authors go on with the one on the left: MoCo,
# MoCo v3, BYOL, DINO and Mean Teacher, Lightly.
_PAIRS = (
    ("encoder_q", "encoder_k"),
    ("base_encoder", "momentum_encoder"),
    ("online", "target"),
    ("teacher", "student"),
    ("backbone", "momentum"),
    ("encoder", "momentum"),
)


def one_network(contents: Contents, firsts: Sequence[str], prefix: str | None) -> Contents:
    """Leave out the networks of a file that are not meant, with all that belongs to them.

    Args:
        contents: the file.
        firsts: for each source of checkpoints, the tensor that a network of it has once.
        prefix: of the network that is meant; None: the only one, or the left one of a known pair.

    Returns:
        The contents with the names of one network, or of none; the others' prefixes in `others`.

    Raises:
        InputError: there are several, and none is meant; or none at `prefix`.
    """
    found = sorted({p for first in firsts for p in prefixes(contents.arrays, first)})
    meant = found
    if prefix is not None:
        start = prefix.rstrip(".") + "." if prefix else ""
        meant = [p for p in found if p.startswith(start)]
        if not meant:
            raise InputError(
                f"{contents.path} has no ResNet at prefix {prefix!r}. "
                f"Received: {_listed(found) or 'no ResNet at all'}"
            )
    chosen = _chosen(meant)
    if chosen is not None and prefix is None and not _alike(contents.arrays, meant):
        chosen = None  # a teacher and its student
    if chosen is None and len(meant) > 1:
        raise InputError(
            f"{contents.path} has several networks: choose one by `prefix`. "
            f"Received: {_listed(meant)}"
        )
    others = [p for p in found if p != chosen]
    if chosen is None or not others:
        return contents
    arrays = {
        key: array
        for key, array in contents.arrays.items()
        if not any(_belongs(key, other, chosen) for other in others)
    }
    names = tuple(p.rstrip(".") or "(no prefix)" for p in others)
    return contents._replace(arrays=arrays, others=(*contents.others, *names))


def _chosen(found: list[str]) -> str | None:
    """The network that is meant, if that is known."""
    if len(found) < 2:
        return found[0] if found else None
    for left, right in _PAIRS:
        pair = [p for p in found if left in p and right not in p]
        if len(pair) == 1 and all(right in p for p in found if p != pair[0]):
            return pair[0]
    return None


def _alike(arrays: Iterable[str], found: Sequence[str]) -> bool:
    """Whether all networks have the same blocks: copies of one, not a large and a small one."""
    keys = list(arrays)
    blocks = [
        {k.removeprefix(p).rpartition(".conv")[0] for k in keys if k.startswith(f"{p}layer")}
        for p in found
    ]
    return all(names == blocks[0] for names in blocks)


def _belongs(key: str, other: str, chosen: str) -> bool:
    """Whether a tensor is of another network, or of what is beside it: `student.head`."""
    theirs, ours = other.split(".")[:-1], chosen.split(".")[:-1]
    same = 0
    while same < min(len(theirs), len(ours)) and theirs[same] == ours[same]:
        same += 1
    words = key.split(".")
    if same == len(theirs):  # ours lies inside of theirs
        return words[:same] == theirs and words[same : same + 1] != [ours[same]]
    return words[: same + 1] == theirs[: same + 1]


def _listed(found: list[str]) -> str:
    return shortened(", ".join(p.rstrip(".") or "(no prefix)" for p in found))
