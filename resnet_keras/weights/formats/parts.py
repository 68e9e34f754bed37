"""What a format's reader finds in a file."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Parts(NamedTuple):
    """The fields of `Contents` of the same names."""

    arrays: dict[str, np.ndarray]
    layers: dict[str, dict[str, Any]] = {}
    facts: Mapping[str, Any] = MappingProxyType({})
