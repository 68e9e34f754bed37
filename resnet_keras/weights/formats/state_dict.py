"""Find the state dict in what a training script saved around it."""

import re
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

# Modules within a network that are sharded, computed again, or compiled.
_WRAPPED = re.compile(r"(?<![^.])_(fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")

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
    # A single one may be an example image.
    kernels = {path: _kernels(d) for path, d in found.items()}
    least = min(2, max(kernels.values(), default=0))
    networks = {path: d for path, d in found.items() if kernels[path] >= max(1, least)} or found
    if not networks:
        raise Refused(f"has no state dict in it. Received: a {type(root).__name__}")
    path = _chosen(list(networks))
    if path is None or _is_another(path, kernels):
        raise Refused(
            f"has several state dicts: choose one by `key`. Received: {_listed(networks)}"
        )
    others = tuple(p for p in networks if networks[p] is not networks[path])
    tensors = {
        k: v
        for entries in (networks[path], _head_beside(path, found, networks))
        for k, v in entries.items()
        if isinstance(v, Tensor | Array)
    }
    copied = sum(len(v.data) for v in tensors.values() if isinstance(v, Array))
    if copied > _MOST_CLAIMED * size:
        raise Refused(
            f"has arrays that together are larger than it. Received: {copied} of {size} bytes"
        )
    return StateDict({_plain(str(k)): v.array() for k, v in tensors.items()}, others)


def _plain(name: str) -> str:
    """A tensor's name without what PyTorch puts before the modules that it has wrapped."""
    return _WRAPPED.sub("", name)


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


def _is_another(path: str, kernels: dict[str, int]) -> bool:
    """Whether a teacher has a student that is another network than its own."""
    parent, _, name = path.rpartition(".")
    student = f"{parent}.student" if parent else "student"
    return name == "teacher" and kernels.get(student, kernels[path]) != kernels[path]


def _kernels(tensors: dict) -> int:
    """How many kernels of convolutions there are."""
    return sum(isinstance(v, Tensor | Array) and len(v.shape) == 4 for v in tensors.values())


def _head_beside(path: str, found: dict[str, dict], networks: dict[str, dict]) -> dict[str, object]:
    """The linear layers in the entries beside the one of a backbone, `{"backbone": .., "fc": ..}`.

    Their tensors, by the name of the entry and their own.
    """
    parent, _, own = path.rpartition(".")
    beside = {
        name: entries
        for place, entries in found.items()
        for above, _, name in [place.rpartition(".")]
        if own and name and above == parent and place not in networks
    }
    return {
        f"{name}.{key}": value
        for name, entries in beside.items()
        if any(str(k).endswith("weight") and len(v.shape) == 2 for k, v in _tensors(entries))
        for key, value in entries.items()
    }


def _tensors(entries: dict) -> list[tuple[object, Tensor | Array]]:
    return [(k, v) for k, v in entries.items() if isinstance(v, Tensor | Array)]


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
