"""The weights and images of golden/parity, which other frameworks' numbers there belong to."""

import json
import runpy
from pathlib import Path

from safetensors.numpy import save_file

PARITY = Path(__file__).parent / "golden" / "parity"
_MAKE = runpy.run_path(str(PARITY / "make_state.py"))


def meta(reference):
    """The keys and shapes of a network, and the shape of its images (NCHW)."""
    return json.loads((PARITY / f"{reference}.json").read_text())


def state(reference):
    """Its weights by the names of its framework."""
    return _MAKE["make_state"](meta(reference))


def images(reference):
    """Its images, normalised already, NCHW."""
    return _MAKE["make_input"](meta(reference))


def save_state(reference, path):
    """Write its weights as a .safetensors file; gives them."""
    arrays = state(reference)
    save_file(arrays, path)
    return arrays
