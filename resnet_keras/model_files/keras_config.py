"""The configuration inside a `.keras` file, with nothing in it that an older Keras need not know.

Keras writes every argument of every constructor, so that a file of a new version cannot be opened
by an older one that lacks an argument, even where it has its default value.
"""

import copy
import functools
import json
from typing import Any

import keras

# Where these are missing, Keras asks the settings of the machine, which are no defaults; and a
# layer without a name is given one by a counter.
_ALWAYS = ("name", "dtype", "data_format")


def without_defaults(config: Any) -> Any:
    """Leave out of a model's configuration what its constructors do without.

    An argument is left out if the same object, by its own account (`get_config`), results without
    it: what depends on the version of Keras or on another argument is thereby found too. The type
    of a layer is written by its name, which every version reads.

    Args:
        config: the JSON of `config.json`, or a part of it.

    Returns:
        The same for the objects that result.
    """
    if isinstance(config, list):
        return [without_defaults(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return config["config"]["name"]
    short = {key: without_defaults(value) for key, value in config.items()}
    # A model has layers, which are shortened one by one, and nothing of its own that is new.
    if _is_keras_object(config) and "layers" not in config["config"]:
        arguments = short["config"]
        name = arguments.pop("name", None)
        if str(config["module"]).startswith("keras.src.ops"):
            name = None  # operations have theirs beside it, and did not take one before
        if config["class_name"].startswith("Random"):
            arguments.pop("data_format", None)  # Keras 3.4 asks the settings, always
        kind = {key: config[key] for key in ("module", "class_name", "registered_name")}
        kept = _needed(json.dumps(kind), json.dumps(arguments))
        short["config"] = ({} if name is None else {"name": name}) | json.loads(kept)
    return short


def _is_keras_object(config: dict[str, Any]) -> bool:
    """Tell a class of Keras' own from functions, tensors and other people's classes."""
    ours = str(config.get("module")).partition(".")[0] == "keras"
    return ours and isinstance(config.get("config"), dict)


@functools.lru_cache  # a network has hundreds of layers of a few kinds
def _needed(kind: str, arguments: str) -> str:
    """Return the arguments, JSON of a dict, without those that make no difference."""
    kept = json.loads(arguments)
    whole = _account(kind, kept)
    for name in [name for name in kept if name not in _ALWAYS]:
        rest = {key: value for key, value in kept.items() if key != name}
        try:
            same = _account(kind, rest) == whole
        except (KeyError, TypeError, ValueError):  # the class must be given it
            continue
        if same:
            kept = rest
    return json.dumps(kept)


def _account(kind: str, arguments: dict[str, Any]) -> Any:
    """Make an object, and return what it says of itself."""
    own = copy.deepcopy(arguments)  # some of Keras' layers take theirs apart
    made = keras.saving.deserialize_keras_object({**json.loads(kind), "config": own})
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(made)["config"]))
    config.pop("name", None)
    return config
