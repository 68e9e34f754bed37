"""What had to be assumed of a network, since its file does not tell."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from resnet_keras.weights.names import Checkpoint, keras_layers

# What segmenters have beside a backbone, which is dilated in most of them.
_DENSE_HEADS = ("classifier", "aux_classifier", "decode_head", "auxiliary_head")

_DILATIONS = {"openmmlab": "OpenMMLab's", "torchvision": "torchvision's"}


def assumptions(
    layers: Mapping[str, dict[str, Any]],
    checkpoint: Checkpoint,
    skipped: Collection[str],
    given: Collection[str],
) -> tuple[str, ...]:
    """List what a file could not tell, in words; in parentheses the option that says otherwise.

    Args:
        layers: of the model that took the file's weights, as `Contents.layers`.
        checkpoint: the file.
        skipped: the file's names of what the model has no place for.
        given: "mean" and "std", where the user gave them.
    """
    if checkpoint.published is not None:
        return ()
    found = list(checkpoint.told.assumed)
    if "heatmaps" in layers and checkpoint.told.input_shape is None:
        height, width = (keras_layers.input_shape(layers) or ())[:2]
        found.append(f"images of {height} x {width} pixels")
    if checkpoint.told.normalised is None:
        found += _of_images(layers, checkpoint, skipped, given)
    head = layers.get("predictions", {}).get("config")
    if head and head["activation"] != "linear" and checkpoint.told.activation in (None, "linear"):
        if head["units"] == 1 or checkpoint.told.activation == "linear":
            found.append(f"{head['activation']} behind the last layer, which has none in the file")
    if not checkpoint.told.whole and not checkpoint.naming.whole:
        found += _of_layers(layers, checkpoint, skipped)
    return tuple(found)


def _of_images(
    layers: Mapping[str, dict[str, Any]],
    checkpoint: Checkpoint,
    skipped: Collection[str],
    given: Collection[str],
) -> Iterator[str]:
    """What a network takes for an image."""
    told = checkpoint.told
    if told.bgr is None:
        yield "BGR (--rgb)" if checkpoint.bgr else "RGB (--bgr)"
    normalise = layers.get("normalise", {}).get("config")
    if normalise is None:
        return
    pixels = keras_layers.rescaled(normalise["scale"], normalise["offset"])
    beside = [key for key in skipped if key.split(".")[-1] in ("mean", "std", "pixel_mean")]
    hint = f"; the file has {beside[0]!r}" if beside else ""
    for name, known, values in (
        ("mean", told.mean, pixels.mean),
        ("std", told.std, pixels.std),
    ):
        numbers = " ".join(f"{value:g}" for value in dict.fromkeys(values))
        if len(set(values)) > 1:
            numbers = " ".join(f"{value:g}" for value in values)
        if name in given and checkpoint.bgr:
            yield f"{name} {numbers} in the order of RGB"
        elif known is None and name not in given:
            yield f"{name} {numbers} (--{name}{hint})"


def _of_layers(
    layers: Mapping[str, dict[str, Any]], checkpoint: Checkpoint, skipped: Collection[str]
) -> Iterator[str]:
    """What the layers of a network compute beyond their names and shapes."""
    told, style = checkpoint.told, keras_layers.style(layers)
    if style.stride_in_1x1 is not None and checkpoint.naming.stride_in_1x1 is None:
        yield "stride in the 1x1" if style.stride_in_1x1 else "stride in the 3x3 (--stride-in-1x1)"
    if told.output_stride is None:
        roots = {key.partition(".")[0] for key in skipped}
        dense = next((f"; the file has {name!r}" for name in _DENSE_HEADS if name in roots), "")
        dilation = "no"
        if style.dilation is not None:
            stride = keras_layers.output_stride(layers)
            dilation = f"output stride {stride} by {_DILATIONS[style.dilation]}"
        yield f"{dilation} dilation (--dilation{dense})"
    elif style.dilation is not None and told.dilation is None:
        yield f"{_DILATIONS[style.dilation]} dilation (--dilation)"
    if style.channel_padding is not None:
        if told.channel_padding is None:
            at = "on both sides" if style.channel_padding == "both" else "at the end"
            yield f"new channels padded {at} (--channel-padding)"
        yield "every second pixel in the shortcut"
    pool = "max pool" if "pool1_pool" in layers else "no max pool"
    yield f"{pool} behind the stem, no anti-aliasing, batch norm epsilon 1e-5"
    stem = layers.get("conv1_conv", layers.get("conv1_1_conv", {})).get("config", {})
    strides = f"stem of stride {stem.get('strides', (1,))[0]}, stages of the usual strides"
    average = ", average of the last map" if "predictions" in layers else ""
    yield f"ReLU, {strides}{average}"
