"""`.safetensors`, read by the library of that name, which checks a header against its file."""

from typing import Any

import ml_dtypes  # noqa: F401 (with it, NumPy knows bfloat16 by the name that safetensors says)
import numpy as np
from safetensors import safe_open


def recognises(path: str, head: bytes) -> bool:
    """Whether a file has this format: a JSON object behind eight bytes, which tell its size."""
    zipped = head.startswith(b"PK")
    return not zipped and (head[8:9] == b"{" or path.endswith(".safetensors"))


def read(path: str) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Its tensors, by the file's names."""
    with safe_open(path, framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, {}
