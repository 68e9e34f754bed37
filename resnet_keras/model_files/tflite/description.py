"""The description inside a TFLite file, as MediaPipe, ML Kit and Android Studio read it.

The tables are those of `metadata_schema.fbs` 1.1.0 of TensorFlow Lite Support, whose Python package
is no longer built for today's Python; the numbers are the positions of the fields in them.
"""

import flatbuffers
import keras
import numpy as np

from resnet_keras.model_files.metadata import Metadata

# Its name in the model's list of metadata.
NAME = "TFLITE_METADATA"
# The associated file that has the labels, one a line.
LABELS = "labels.txt"

_IDENTIFIER = b"M001"
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1  # members of the union ContentProperties
_NORMALIZATION_OPTIONS = 1  # member of the union ProcessUnitOptions
_RGB, _GRAYSCALE = 1, 2  # ColorSpaceType
_TENSOR_AXIS_LABELS = 2  # AssociatedFileType


def describe(model: keras.Model, metadata: Metadata) -> bytes:
    """Write the flatbuffer ModelMetadata of a classifier.

    Args:
        model: from images to probabilities.
        metadata: with its labels.

    Returns:
        The bytes. They ask for no normalisation (mean 0, std 1): it is inside the model.
    """
    builder = flatbuffers.Builder(1024)
    channels = model.input_shape[-1]

    def table(fields: dict[int, tuple[str, int]]) -> int:
        """Write a table of fields, by their positions: kind and value."""
        builder.StartObject(max(fields) + 1)
        for position, (kind, value) in fields.items():
            getattr(builder, f"Prepend{kind}Slot")(position, value, 0)
        return builder.EndObject()

    def text(string: str) -> tuple[str, int]:
        return "UOffsetTRelative", builder.CreateString(string)

    def tables(*offsets: int) -> tuple[str, int]:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return "UOffsetTRelative", builder.EndVector()

    def numbers(*values: float) -> tuple[str, int]:
        return "UOffsetTRelative", builder.CreateNumpyVector(np.array(values, np.float32))

    def inner(offset: int) -> tuple[str, int]:
        return "UOffsetTRelative", offset

    image = table({0: ("Int8", _RGB if channels == 3 else _GRAYSCALE)})
    content = table({0: ("Uint8", _IMAGE_PROPERTIES), 1: inner(image)})
    none = table({0: numbers(*[0.0] * channels), 1: numbers(*[1.0] * channels)})
    unit = table({0: ("Uint8", _NORMALIZATION_OPTIONS), 1: inner(none)})
    stats = table({0: numbers(*[255.0] * channels), 1: numbers(*[0.0] * channels)})
    pixels = table(
        {
            0: text("images"),
            1: text("pixels 0-255, as they are: mean and std are inside"),
            3: inner(content),
            4: tables(unit),
            5: inner(stats),
        }
    )
    feature = builder.StartObject(0) or builder.EndObject()
    content = table({0: ("Uint8", _FEATURE_PROPERTIES), 1: inner(feature)})
    stats = table({0: numbers(1.0), 1: numbers(0.0)})
    fields = {0: text(metadata.output), 3: inner(content), 5: inner(stats)}
    if metadata.labels:
        labels = table({0: text(LABELS), 2: ("Int8", _TENSOR_AXIS_LABELS)})
        fields[6] = tables(labels)
    probabilities = table(fields)
    graph = table({2: tables(pixels), 3: tables(probabilities)})
    whole = table({0: text(model.name), 3: tables(graph), 7: text("1.0.0")})
    builder.Finish(whole, _IDENTIFIER)
    return bytes(builder.Output())
