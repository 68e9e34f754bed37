"""A folder: a preset of KerasHub, or what was cloned from the Hugging Face Hub."""

import json
import os
from pathlib import Path
from typing import Any

from resnet_keras.weights.formats.refused import Refused

# What such folders call their weights, best first.
NAMES = ("model.safetensors", "pytorch_model.bin", "model.keras", "model.weights.h5",
         "task.weights.h5")  # fmt: skip

# KerasHub keeps the weights of a head in a file of their own.
HEAD = "task.weights.h5"

# What they say of their weights.
FACTS = ("config.json", "preprocessor_config.json", "preprocessor.json", "task.json")

# Such a file has a few thousand bytes.
_MOST_BYTES = 1 << 20


def weights(folder: str) -> str:
    """The file of weights in a folder.

    Raises:
        Refused: there is none.
    """
    path = next((p for name in NAMES if (p := os.path.join(folder, name)) and os.path.exists(p)),
                None)  # fmt: skip
    if path is None:
        raise Refused(
            f"is a folder without any of {', '.join(NAMES)}. "
            f"Received: {', '.join(sorted(os.listdir(folder))[:3]) or 'an empty folder'}"
        )
    return path


def facts(folder: str) -> dict[str, Any]:
    """What the JSON files of a folder say, by their names.

    Raises:
        Refused: one of them is not JSON of a few thousand bytes.
    """
    found = {}
    for name in FACTS:
        path = Path(folder, name)
        if not path.is_file():
            continue
        size = path.stat().st_size
        try:
            if size > _MOST_BYTES:
                raise ValueError(f"{size} bytes")
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise Refused(f"has a damaged {name} beside its weights. Received: {error}") from error
    return found
