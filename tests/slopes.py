"""Finite differences, for tests of gradients."""

import numpy as np


def slopes(function, *arrays, step=1e-5):
    """Central differences of a float64 function by every number of its arguments."""
    found = [np.zeros(array.shape) for array in arrays]
    for number, array in enumerate(arrays):
        for place in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(a, "float64") for a in arrays]
                moved[number][place] += sign * step
                ends.append(function(*moved))
            found[number][place] = (ends[0] - ends[1]) / (2 * step)
    return found
