"""The configuration of a Keras model: its layers, and where files without names keep their weights.

Files of Keras 2 and of Keras 3.0 to 3.5 name no layer: a weight is in `layers/conv2d_7/vars/0`, the
eighth `Conv2D` in the order of the configuration (keras/src/saving/saving_lib.py,
`_save_container_state`).
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from resnet_keras.weights.formats.refused import Refused

# What the attribute is called that holds a model's layers, by version.
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")


def flattened(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The layers of a model and of the models in it, by name, in their order.

    What a layer of Keras 3 does not say of itself is its default: our own files leave it out.

    Args:
        config: of the model: `{"layers": [{"class_name": ..., "config": ...}, ...]}`.

    Raises:
        Refused: two layers have one name.
    """
    layers: dict[str, dict[str, Any]] = {}
    for layer in config.get("layers", ()):
        inner = layer["config"]
        found = flattened(inner) if "layers" in inner else {_name(layer): _whole(layer)}
        for name, each in found.items():
            if name in layers and each["class_name"] != "InputLayer":
                raise Refused(f"has two layers of one name. Received: {name!r}")
            layers.setdefault(name, each)
    return layers


def layer_names(config: Mapping[str, Any], groups: Iterable[str]) -> dict[str, str]:
    """Find whose weights are in the groups of a file that names no layers.

    Args:
        config: as `flattened` takes it.
        groups: such as `layers/functional/layers/conv2d_7`.

    Returns:
        The layer's name for each group.

    Raises:
        Refused: the configuration has other layers than the file.
    """
    paths = {group: tuple(part for part in group.split("/") if part not in CONTAINERS)
             for group in groups}  # fmt: skip
    found = dict(_named(config, set(paths.values()), ()))
    missing = [group for group, path in paths.items() if path not in found]
    if missing:
        raise Refused(
            f"has weights of layers that its configuration does not list. Received: {missing[0]!r}"
        )
    return {group: found[path] for group, path in paths.items()}


def require_shapes(
    layers: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Check kernels against the configuration: numbers differ between versions of Keras.

    Raises:
        Refused: a kernel has another size than its layer.
    """
    for name, layer in layers.items():
        kernel, config = arrays.get(f"{name}/kernel"), layer["config"]
        if kernel is None or layer["class_name"] not in ("Conv2D", "Dense"):
            continue
        if layer["class_name"] == "Dense":
            wanted, found = (config["units"],), kernel.shape[-1:]
        else:
            wanted = (*config["kernel_size"], config["filters"])
            found = (*kernel.shape[:2], *kernel.shape[-1:])
        if wanted != found:
            raise Refused(
                f"numbers its layers otherwise than known versions of Keras: {name!r} should have "
                f"a kernel of {wanted}. Received: {found}"
            )


def _named(
    config: Mapping[str, Any], paths: set[tuple[str, ...]], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each path of a group with its layer's name, in the model that is at `above`."""
    by_class = defaultdict(list)
    for layer in config.get("layers", ()):
        by_class[_snake_case(layer["class_name"])].append(layer)
    here = {path[: len(above) + 1] for path in paths if path[: len(above)] == above}
    for kind, layers in by_class.items():
        numbers = sorted(n for path in here if (n := _number(path[-1], kind)) is not None)
        if numbers and numbers[-1] >= len(layers):
            # TensorFlow 2.12 and 2.13 left numbers out; only layers with weights have a group.
            if len(numbers) != len(layers):
                continue
            pairs = zip(numbers, layers, strict=True)
        else:
            pairs = zip(numbers, (layers[n] for n in numbers), strict=True)
        for number, layer in pairs:
            path = (*above, f"{kind}_{number}" if number else kind)
            if "layers" in layer["config"]:
                yield from _named(layer["config"], paths, path)
            else:
                yield path, _name(layer)


def _whole(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer with all that Keras says of one like it: what a file leaves out is the default."""
    known = layer.get("module") == "keras.layers" and hasattr(keras.layers, layer["class_name"])
    if not known:
        return layer
    plain = {k: v for k, v in layer["config"].items() if not isinstance(v, dict)}
    try:
        made = getattr(keras.layers, layer["class_name"]).from_config(plain)
    except (TypeError, ValueError):  # of another version, whose files say everything
        return layer
    config = json.loads(json.dumps(made.get_config(), default=str))
    return {**layer, "config": {**config, **layer["config"]}}


def _name(layer: Mapping[str, Any]) -> str:
    """A layer's name; the operations of Keras 3.0 to 3.5 have none in their configuration."""
    return layer["config"].get("name") or layer["name"]


def _number(group: str, kind: str) -> int | None:
    """The number of a group: 0 for `conv2d`, 7 for `conv2d_7`; None if it is of another class."""
    if group == kind:
        return 0
    number = group.removeprefix(f"{kind}_")
    return int(number) if number != group and number.isdecimal() else None


def _snake_case(name: str) -> str:
    """As Keras does: `BatchNormalization` to `batch_normalization`, `Conv2D` to `conv2d`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
