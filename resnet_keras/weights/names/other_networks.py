"""Recognise the relatives of ResNet, which have its names and compute something else."""

import re
from collections.abc import Sequence

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.weights.formats import Contents

# What the names of a network's parts say it is.
_RELATIVES = {
    r"(.+\.)?visual\.(layer1\.0\.|attnpool\.).+": "CLIP's ResNet (three convolutions in the stem, "
    "and an attention pool)",
    r"(.+\.)?layer\d\.\d+\.(convs|bns)\.\d+\.weight": "a Res2Net",
    r"(.+\.)?layer\d\.\d+\.conv2\.(conv|fc1|bn0)\.weight": "a ResNeSt or SKNet (split attention)",
    r"(.+\.)?layer\d\.\d+\.conv2\.(paths|attn)\..+": "an SKNet (selective kernels)",
    r"(.+\.)?layer\d\.\d+\.(eca\w*\.conv|se\.conv)\.weight": "an ECA-ResNet",
    r"(.+\.)?layer\d\.\d+\.(se|se_module|se_layer|attn|fc[12])\..+": "an SE-ResNet (squeeze and "
    "excitation)",
    r"(.+\.)?layer\d\.\d+\.(ca|sa|cbam)\..+": "a ResNet with CBAM (attention)",
    r"(.+\.)?layer\d\.\d+\.(conv2_offset|conv2\.conv_offset)\..+": "a ResNet with deformable "
    "convolutions",
    r"(.+\.)?layer\d\.\d+\.bn1\.(IN|BN)\.weight": "an IBN-Net (instance normalisation)",
    r"(.+\.)?stages\.\d\.blocks\.\d+\.conv1\.weight": "a ResNet v2 (pre-activation)",
}
_PATTERNS = {re.compile(pattern): what for pattern, what in _RELATIVES.items()}

# Blocks of ResNet v2 begin with the batch norm, so the stem has none.
_BLOCK = re.compile(r"(.*)layer1\.0\.conv1\.weight")


def refuse_relatives(contents: Contents) -> None:
    """Refuse a network that is not a ResNet of ours by the names of its parts.

    Raises:
        InputError: what it is.
    """
    for key in contents.arrays:
        for pattern, what in _PATTERNS.items():
            if pattern.fullmatch(key):
                raise _refusal(contents, what, key)
    for key in contents.arrays:
        if (match := _BLOCK.fullmatch(key)) is not None:
            prefix = match[1]
            norm = contents.arrays.get(f"{prefix}layer1.0.bn1.weight")
            entry = contents.arrays[key]
            stems = ("bn1.", "stem.", "conv1.1.", "conv1.4.")
            bare = not any(k.startswith(tuple(prefix + s for s in stems)) for k in contents.arrays)
            # One with a bias has its batch norm folded into it.
            first = {f"{prefix}conv1.{part}" for part in ("weight", "bias")} & set(contents.arrays)
            if (
                first == {f"{prefix}conv1.weight"}
                and bare
                and norm is not None
                and norm.shape == entry.shape[1:2]
            ):
                raise _refusal(contents, "a ResNet v2 (pre-activation)", key)


def refuse_shapes(
    contents: Contents,
    kernels: Sequence[tuple[int, ...] | None],
    norm: Sequence[str | None],
) -> None:
    """Refuse a network that is not a ResNet of ours by the shapes of its first block.

    Args:
        contents: the file.
        kernels: shapes, HWIO, of the three convolutions of a bottleneck; None where it has fewer.
        norm: the names of the scale and the mean of its first norm.

    Raises:
        InputError: what it is.
    """
    scale, mean = norm
    if scale in contents.arrays and mean not in contents.arrays:
        key = f"{scale}, without {mean}"
        raise _refusal(contents, "normalised without statistics of batches (GroupNorm?)", key)
    if any(shape is None or len(shape) != 4 for shape in kernels):
        return
    first, second, third = (shape or () for shape in kernels)
    groups, rest = divmod(first[3], max(second[2], 1))
    if groups > 1 and not rest:
        shape = f"a {second[0]}x{second[1]} convolution from {second[2]} to {second[3]} channels"
        raise _refusal(contents, f"a ResNeXt or RegNet ({groups} groups)", shape)
    if second[3] and third[3] != 4 * second[3]:
        shape = f"a bottleneck of {second[3]} channels before {third[3]}"
        raise _refusal(contents, "a wide ResNet", shape)


def _refusal(contents: Contents, what: str, received: str) -> InputError:
    shape = ""
    if isinstance(array := contents.arrays.get(received), np.ndarray):
        received, shape = repr(received), f" of shape {array.shape}"
    return InputError(
        f"{contents.path} is {what}, which is not among the networks here: see "
        f"resnet_keras.SPECS. Received: {received}{shape}"
    )
