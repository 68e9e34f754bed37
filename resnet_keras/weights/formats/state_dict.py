"""Find the state dict in what a training script saved around it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from resnet_keras.text import shortened
from resnet_keras.weights.formats.pickles import Array, Tensor
from resnet_keras.weights.formats.refused import Refused

# Where training scripts put the state dict that is meant, where they save several: OpenMMLab,
# Lightning and timm; torchvision and detectron2; Caffe2; what tutorials do. Averages come last.
_WRAPPERS = (
    *("state_dict", "model", "blobs", "model_state_dict", "model_state", "net", "network"),
    *("net_state_dict", "module", "weights", "params", "state", "backbone", "encoder"),
    *("encoder_q", "base", "online", "teacher", "student"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
)

# What training scripts put beside it, which may hold tensors, too.
_BESIDE = ("optim", "scheduler", "lr_sched", "scaler", "callbacks", "loops", "rng", "meta", "hyper")

_MOST_LEVELS = 5

# What all arrays may come to, by the size of the file: some share their values.
_MOST_CLAIMED = 4


class StateDict(NamedTuple):
    """What was found.

    Attributes:
        arrays: by the names in the state dict.
        others: the entries of the file that hold other networks, as `key` chooses them.
    """

    arrays: dict[str, np.ndarray]
    others: tuple[str, ...]


def state_dict(root: object, size: int, key: str | None = None) -> StateDict:
    """Find the dict of tensors in a pickled object.

    Args:
        root: what was unpickled.
        size: of the file, bytes.
        key: the entry that is meant, `model_ema`, or `state.model` where they are nested; by
            default the only one, or that of a common name.

    Raises:
        Refused: there is none; or there are several, none of a common name; or none at `key`.
    """
    found = dict(_dicts(root, "", set(), _MOST_LEVELS))
    if key is not None:
        found = {path: d for path, d in found.items() if f"{path}.".startswith(f"{key}.")} or found
        if not any(f"{path}.".startswith(f"{key}.") for path in found):
            raise Refused(f"has no tensors at key {key!r}. Received: {_listed(found)}")
    # Beside a network there may be a loss with a buffer, or the state of random numbers.
    networks = {path: d for path, d in found.items() if _has_kernels(d)} or found
    if not networks:
        raise Refused(f"has no state dict in it. Received: a {type(root).__name__}")
    path = _chosen(list(networks))
    if path is None:
        raise Refused(
            f"has several state dicts: choose one by `key`. Received: {_listed(networks)}"
        )
    others = tuple(p for p in networks if networks[p] is not networks[path])
    tensors = {k: v for k, v in networks[path].items() if isinstance(v, Tensor | Array)}
    copied = sum(len(v.data) for v in tensors.values() if isinstance(v, Array))
    if copied > _MOST_CLAIMED * size:
        raise Refused(
            f"has arrays that together are larger than it. Received: {copied} of {size} bytes"
        )
    return StateDict({str(k): v.array() for k, v in tensors.items()}, others)


def _dicts(node: object, path: str, seen: set[int], levels: int) -> Iterator[tuple[str, dict]]:
    """The dicts that hold tensors, by where they are."""
    if not isinstance(node, dict) or not levels or id(node) in seen:
        return
    seen.add(id(node))  # a dict can hold itself
    if any(isinstance(value, Tensor | Array) for value in node.values()):
        yield path, node
    for name, child in node.items():
        if isinstance(name, str) and not any(word in name.lower() for word in _BESIDE):
            yield from _dicts(child, f"{path}.{name}" if path else name, seen, levels - 1)


def _has_kernels(tensors: dict) -> bool:
    return any(isinstance(v, Tensor | Array) and len(v.shape) == 4 for v in tensors.values())


def _chosen(paths: list[str]) -> str | None:
    """The entry that is meant; None where that is open."""
    if len(paths) == 1:
        return paths[0]
    if "" in paths:  # entries of a state dict, as `_extra_state`
        return ""
    for wrapper in _WRAPPERS:
        inside = [path for path in paths if path.split(".")[0] == wrapper]
        if inside:
            below = {path.partition(".")[2]: path for path in inside}
            chosen = _chosen(list(below))
            return None if chosen is None else below[chosen]
    return None


def _listed(paths: dict) -> str:
    return shortened(", ".join(path or "(the whole)" for path in paths)) or "no tensors"
