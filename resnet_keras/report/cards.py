"""A model card: what a stranger must know of a file, as Hugging Face and Keras read it."""

import json
from pathlib import Path
from typing import Any

from resnet_keras.files import local_path
from resnet_keras.model_files import Metadata
from resnet_keras.report.text import milliseconds, percent, public

# What Hugging Face calls the library that opens a file.
_LIBRARIES = {".keras": "keras", ".tflite": "litert", ".onnx": "onnx", "": "tensorflow"}

_OPENING = {
    ".keras": """\
import keras

model = keras.models.load_model("{name}")
scores = model.predict(pixels)""",
    ".tflite": """\
from ai_edge_litert.interpreter import Interpreter

model = Interpreter("{name}")
entry, exit = model.get_input_details()[0], model.get_output_details()[0]
model.resize_tensor_input(entry["index"], pixels.shape)
model.allocate_tensors()
model.set_tensor(entry["index"], pixels)
model.invoke()
scores = model.get_tensor(exit["index"])""",
    ".onnx": """\
import onnxruntime

model = onnxruntime.InferenceSession("{name}")
scores = model.run(None, {{model.get_inputs()[0].name: pixels}})[0]""",
    "": """\
import tensorflow as tf

model = tf.saved_model.load("{name}")
scores = model.serve(pixels)""",
}


def model_card(report: dict[str, Any], metadata: Metadata, name: str = "model.keras") -> str:
    """Markdown with the front matter of Hugging Face's model cards.

    Args:
        report: as `export` gives it: `examples`, `top1`, `top1_source`, `max_difference`,
            `top1_agreement`, `bytes`, `latency_ms`, `layout`, `io`, `dataset`, `command`; what it
            lacks is left out.
        metadata: of the file.
        name: of the file; its suffix says what opens it.

    Returns:
        The text of a `README.md`. It names no licence: that of weights is for whoever trained
        them to give.
    """
    suffix = Path(name).suffix
    return "\n".join(
        [
            "---",
            *_front_matter(report, metadata, name, suffix),
            "---",
            "",
            f"# {_line(name)}",
            "",
            *_about(metadata),
            "",
            "## Use",
            "",
            *_arrays(report, metadata, suffix),
            *_preparation(metadata),
            "",
            "```python",
            _OPENING.get(suffix, _OPENING[".keras"]).format(name=name),
            "```",
            "",
            *_proof(report, metadata),
            *_classes(metadata),
            "",
        ]
    )


def _front_matter(report: dict, metadata: Metadata, name: str, suffix: str) -> list[str]:
    """YAML, in which JSON's strings are strings."""
    lines = [
        f"library_name: {_LIBRARIES.get(suffix, 'keras')}",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- resnet",
        "- resnet-keras",
    ]
    # A folder of somebody's images is no data set that others find.
    if _is_public(metadata.dataset):
        lines += ["datasets:", f"- {json.dumps(metadata.dataset)}"]
    measured = report.get("dataset") or metadata.dataset
    if _is_public(measured) and report.get("top1") is not None:
        lines += [
            "metrics:",
            "- accuracy",
            "model-index:",
            f"- name: {json.dumps(name)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(measured)}",
            f"      type: {json.dumps(measured)}",
            "      split: test",
            "    metrics:",
            "    - type: accuracy",
            f"      name: top-1 of {report['examples']} test images",
            f"      value: {report['top1']:.6g}",
        ]
    return lines


def _about(metadata: Metadata) -> list[str]:
    on = "" if metadata.dataset is None else f", trained on {_line(public(metadata.dataset))}"
    classes = f" of {len(metadata.labels)} classes" if metadata.labels else ""
    return [f"A ResNet that classifies images{classes}{on}; written by resnet-keras."]


def _arrays(report: dict, metadata: Metadata, suffix: str) -> list[str]:
    """What `pixels` and `scores` are, by how the file was made."""
    height, width = metadata.preprocessing.size
    size = f"{height}, {width}"
    shape = f"channels, {size}" if report.get("layout") == "nchw" else f"{size}, channels"
    kind = report.get("io") or "float32"
    integers = suffix == ".tflite" and kind != "float32"
    levels = (
        " Both are levels: a value is (level - zero point) x scale, and `entry` and `exit` have "
        '`(scale, zero point)` under `"quantization"`.'
    )
    return [
        f"`pixels` is {kind}, `(batch, {shape})`, RGB or grey, 0-255; `scores` holds a probability "
        f"for each class, {kind if integers else 'float32'}.{levels if integers else ''}"
    ]


def _preparation(metadata: Metadata) -> list[str]:
    """How an image becomes the pixels that the file wants."""
    wanted = metadata.preprocessing
    height, width = wanted.size
    how = f"{wanted.interpolation}, {'with' if wanted.antialias else 'without'} antialiasing"
    crop = f"({how}), then the central {height} x {width} pixels are cropped"
    inside = "Mean and standard deviation are inside the file."
    if wanted.resize is not None:
        return [f"Resize the short edge to {wanted.resize} {crop}. {inside}"]
    return [f"Images of another size are scaled to just cover {height} x {width} {crop}. {inside}"]


def _proof(report: dict, metadata: Metadata) -> list[str]:
    """What was measured, and how."""
    rows = (
        ("top-1", percent(report.get("top1"), 2) if "top1" in report else None),
        ("top-1 of the Keras model", percent(report.get("top1_source"), 2)),
        ("same top-1 as the Keras model", percent(report.get("top1_agreement"), 2)),
        ("largest difference of a probability", _number(report.get("max_difference"), ".1e")),
        ("size, bytes", _number(report.get("bytes"), ",")),
        ("one image, ms, on the machine of the export", milliseconds(report.get("latency_ms"))),
    )
    known = [(what, value) for what, value in rows if value not in (None, "-")]
    if not known:
        return []
    measured = report.get("dataset") or metadata.dataset
    # A command that needs somebody's folder runs nowhere else.
    anywhere = _is_public(metadata.dataset) and _is_public(measured)
    command = report.get("command") if anywhere else None
    images = f"{report['examples']:,} test images" if "examples" in report else "test images"
    return [
        "## Measured",
        "",
        f"On {images} of {_line(public(measured or 'its data set'))}:",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in known),
        "",
        *([f"By `{_code(command)}`.", ""] if command else []),
    ]


def _classes(metadata: Metadata, most: int = 100) -> list[str]:
    """Names of the classes, in the order of the scores."""
    if not metadata.labels:
        return []
    shown = ", ".join(_line(label) for label in metadata.labels[:most])
    more = f", and {len(metadata.labels) - most} more" if len(metadata.labels) > most else ""
    return ["## Classes", "", f"{shown}{more}."]


def _is_public(dataset: str | None) -> bool:
    return dataset is not None and local_path(dataset) is None


def _line(words: str) -> str:
    """Somebody's words in a line of Markdown: no markup, no line's end, no control characters."""
    visible = _printable(words)
    for mark in "\\`*[]<>|":
        visible = visible.replace(mark, f"\\{mark}")
    return visible


def _code(words: str) -> str:
    """The same between backticks, where only they are markup."""
    return _printable(words).replace("`", "'")


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def _number(value: Any, how: str) -> str | None:
    return None if value is None else format(value, how)
