"""The model card: what a stranger needs to know to use a model file."""

import json
from typing import Any

from resnet_keras.files import local_path
from resnet_keras.model_files import Metadata
from resnet_keras.model_files.formats import KERAS, Format, format_named
from resnet_keras.report.text import (
    CLIENTS,
    escape_code,
    escape_markdown,
    milliseconds,
    percent,
    public,
)


def model_card(report: dict[str, Any], metadata: Metadata, name: str = "model.keras") -> str:
    """Write a model card: Markdown with the front matter of Hugging Face.

    Args:
        report: what `export` returned: `examples`, `top1`, `top1_source`, `max_difference`,
            `mean_largest_difference`, `unquantized_max_difference`, `difference_of`,
            `top1_agreement`, `decision_agreement`, `map`, `map_source`, `bytes`, `latency_ms`,
            `layout`, `io`, `dataset`, `command`; the card leaves out what the report lacks.
        metadata: of the model file.
        name: of the model file; its suffix decides how it is opened.

    Returns:
        The text of a `README.md`. It names no licence, which only those who trained the weights
        can give.
    """
    row = format_named(name) or KERAS
    return "\n".join(
        [
            "---",
            *_front_matter(report, metadata, name, row),
            "---",
            "",
            f"# {escape_markdown(name)}",
            "",
            *_about(metadata),
            "",
            "## Use",
            "",
            *_arrays(report, metadata, row),
            *_preprocessing(metadata),
            "",
            "```python",
            row.module.SNIPPET.format(name=name),
            "```",
            "",
            f"Lines for other programs are in {CLIENTS} of resnet-keras.",
            "",
            *_measured(report, metadata),
            *_classes(metadata),
            "",
        ]
    )


def _front_matter(report: dict, metadata: Metadata, name: str, row: Format) -> list[str]:
    """Write the YAML; a string of JSON is one of YAML, too."""
    task = "image-feature-extraction" if metadata.features else "image-classification"
    task = "keypoint-detection" if metadata.heatmaps else task
    lines = [
        f"library_name: {row.library}",
        f"pipeline_tag: {task}",
        "tags:",
        f"- {task}",
        "- resnet",
        "- resnet-keras",
    ]
    # Nobody else can find a local folder.
    if _is_public(metadata.dataset):
        lines += ["datasets:", f"- {json.dumps(metadata.dataset)}"]
    measured = report.get("dataset") or metadata.dataset
    if _is_public(measured) and report.get("top1") is not None:  # as far as the Hub knows a metric
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
    classes = f" into {len(metadata.labels)} classes" if metadata.labels else ""
    if metadata.multi_label:
        classes = f": an image has any number of {len(metadata.labels)} labels"
    trained = ""
    if metadata.dataset is not None:
        trained = f", trained on {escape_markdown(public(metadata.dataset))}"
    if metadata.heatmaps:
        return [
            "A ResNet that draws a heatmap for each key point of the object in an image"
            f"{trained}. Written by resnet-keras."
        ]
    if metadata.features:
        return [f"A ResNet that computes features of images{trained}. Written by resnet-keras."]
    return [f"A ResNet that classifies images{classes}{trained}. Written by resnet-keras."]


def _arrays(report: dict, metadata: Metadata, row: Format) -> list[str]:
    """Describe `pixels` and `scores`, which depend on how the file was made."""
    height, width = metadata.preprocessing.size
    size = f"{height}, {width}"
    shape = f"channels, {size}" if report.get("layout") == "nchw" else f"{size}, channels"
    kind = report.get("io") or "float32"
    quantized = row.integer_scores and kind != "float32"
    how = (
        " Both are quantized: a value is (integer - zero point) x scale, and `(scale, zero point)` "
        'are in `entry["quantization"]` and `exit["quantization"]`.'
    )
    chosen = ""
    if metadata.multi_label:
        chosen = f" An image has the labels of {metadata.threshold:.6g} or more, which may be none."
    kind_of_score = "score" if report.get("difference_of") == "scores" else "probability"
    held = f"a {kind_of_score} for each {'label' if chosen else 'class'}"
    if metadata.features:
        held = "features, of an image as `(features,)` or `(height, width, channels)`"
    if metadata.heatmaps:
        held = "heatmaps, of an image as `(height, width, key points)`"
    colours = "RGB or grey"
    if metadata.rgb_input:
        colours = "RGB, of which the file makes grey images itself"
    return [
        f"`pixels` is {kind}, `(batch, {shape})`, {colours}, 0-255; `scores` holds {held}, "
        f"{kind if quantized else 'float32'}."
        f"{how if quantized else ''}{chosen}"
    ]


def _preprocessing(metadata: Metadata) -> list[str]:
    """Say how an image becomes the pixels that the file takes."""
    wanted = metadata.preprocessing
    height, width = wanted.size
    how = f"{wanted.interpolation}, {'with' if wanted.antialias else 'without'} antialiasing"
    rest = (
        f"({how}), then crop the central {height} x {width} pixels. "
        "The file normalises the pixels itself."
    )
    if wanted.resize is not None:
        return [f"Resize the short edge to {wanted.resize} pixels {rest}"]
    return [f"Resize images of another size until they just cover {height} x {width} {rest}"]


def _measured(report: dict, metadata: Metadata) -> list[str]:
    """Say what was measured, and on which images."""
    latency = report.get("latency_ms")
    difference, mean, unquantized = (
        _number(report.get(name), ".1e")
        for name in ("max_difference", "mean_largest_difference", "unquantized_max_difference")
    )
    kind = report.get("difference_of", "probabilities")
    of = {"scores": "score", "features": "feature"}.get(kind, "probability")
    share = "" if of == "probability" else f", as a share of the largest {of}"
    rows = (
        ("top-1", percent(report.get("top1"), 2)),
        ("top-1 of the Keras model", percent(report.get("top1_source"), 2)),
        ("top-1 agreement with the Keras model", percent(report.get("top1_agreement"), 2)),
        ("mAP", percent(report.get("map"), 2)),
        ("mAP of the Keras model", percent(report.get("map_source"), 2)),
        ("decisions that agree with the Keras model", percent(report.get("decision_agreement"), 2)),
        (f"largest difference of a {of} from the Keras model{share}", difference),
        ("the same before quantization", unquantized),
        ("mean over the images of their largest difference", mean),
        ("size, bytes", _number(report.get("bytes"), ",")),
        ("latency of one image, ms, on the machine that exported it", milliseconds(latency)),
    )
    known = [(what, value) for what, value in rows if value not in (None, "-")]
    if not known:
        return []
    measured = report.get("dataset") or metadata.dataset
    # A command that needs a local folder runs nowhere else.
    anywhere = _is_public(metadata.dataset) and _is_public(measured)
    command = report.get("command") if anywhere else None
    images = f"{report['examples']:,} test images" if "examples" in report else "test images"
    return [
        "## Measured",
        "",
        f"On {images} of {escape_markdown(public(measured or 'its data set'))}:",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in known),
        "",
        *([f"Command: `{escape_code(command)}`", ""] if command else []),
    ]


def _classes(metadata: Metadata, most: int = 100) -> list[str]:
    """List the names of the classes, in the order of the scores."""
    if not metadata.labels:
        return []
    shown = ", ".join(escape_markdown(label) for label in metadata.labels[:most])
    more = f", and {len(metadata.labels) - most} more" if len(metadata.labels) > most else ""
    title = "## Labels" if metadata.multi_label else "## Classes"
    if metadata.heatmaps:
        return ["## Key points", "", f"In the order of the heatmaps: {shown}{more}."]
    return [title, "", f"In the order of the scores: {shown}{more}."]


def _is_public(dataset: str | None) -> bool:
    return dataset is not None and local_path(dataset) is None


def _number(value: Any, how: str) -> str | None:
    return None if value is None else format(value, how)
