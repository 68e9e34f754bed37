"""What a format's reader finds in a file."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Found(NamedTuple):
    """What a file holds, as `Contents` describes it.

    Attributes:
        arrays: by the file's names.
        layers: of a `.keras` file.
        others: entries with other networks, which were not read.
        facts: what the file says besides.
    """

    arrays: dict[str, np.ndarray]
    layers: Mapping[str, dict[str, Any]] = _NOTHING
    others: tuple[str, ...] = ()
    facts: Mapping[str, Any] = _NOTHING
