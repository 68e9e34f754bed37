"""A trained model -> plain `.keras`, SavedModel, `.tflite`, `.onnx`, with the proof of equality."""

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras import data
from resnet_keras.console import command, say
from resnet_keras.errors import InputError
from resnet_keras.evaluation import batches, open_split_for, require_channels, source_for
from resnet_keras.exporting.plain import folded, plain, save_plain
from resnet_keras.exporting.proof import BOUNDS, compare, latencies, reason_to_refuse, size
from resnet_keras.files import whole, write_text
from resnet_keras.model_files import (
    ModelFile,
    load_keras,
    metadata_path,
    open_model_file,
    require_place,
    say_what_is_made_up,
)
from resnet_keras.quantize import aware, read_ranges, to_convert
from resnet_keras.report import model_card

__all__ = ["BOUNDS", "BoundMissed", "compare", "export", "folded", "plain", "save_plain"]

# What each suffix can be quantized to, the usual first.
FORMATS = {
    ".tflite": ("none", "float16", "dynamic", "int8"),
    ".onnx": ("none", "int8"),
    ".keras": ("none",),
    "": ("none",),
}
_NAMES = {".tflite": "TFLite", ".onnx": "ONNX", ".keras": "Keras", "": "SavedModel"}
# In and out of an int8 file.
IO = {".tflite": ("uint8", "int8", "float32"), ".onnx": ("uint8", "float32")}
LAYOUTS = ("nhwc", "nchw")

# Ranges are taken from so many training images; fewer than that many are refused.
CALIBRATION_IMAGES, LEAST_IMAGES = 200, 100

# Float32's own rounding: what a layer shows that is the same in int8.
_NO_ERROR = 1e-6

# What a report says until its file is there: after a kill between the two, it must not speak for
# none, or for an older one. Written before, it also tells whether the disk has room for it.
_BROKEN_OFF = {"kept": False, "reason": "the export was broken off"}


class BoundMissed(Exception):
    """An exported file computes something else, or needs what is not everywhere; it is not kept."""


def export(
    model_file: str | Path,
    out: str | Path,
    *,
    quantize: str = "none",
    calibrate: str | None = None,
    io: str | None = None,
    keep_float: Sequence[str] = (),
    layout: str | None = None,
    opset: int | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    examples: int = 256,
    bound: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    format: str | None = None,
) -> dict[str, Any]:
    """Convert a `.keras` model and prove the result equal on real test images.

    Args:
        model_file: a `.keras` file.
        out: `.tflite`, `.onnx`, `.keras`, or a name without suffix: a SavedModel.
        quantize: "none"; "float16", "dynamic" (int8 weights) or "int8" (weights and activations)
            for `.tflite`; "int8" for `.onnx`.
        calibrate: for int8, the data set whose training images tell the ranges of activations;
            by default what the model was trained on, and none where it was fine-tuned for int8
            (`Recipe.quantize`) and so knows them.
        io: for int8, the type of pixels and probabilities: "uint8" (the default; pixels are raw
            bytes), "int8" or "float32". In `.onnx`, of pixels, "uint8" or "float32".
        keep_float: for int8, layers that are not quantized; the report lists all by their error.
        layout: of `.onnx`: "nhwc" (the default) or "nchw".
        opset: of `.onnx`, 13 to 18; by default 17.
        dataset: whose test images the proof runs on; by default what the model was trained on.
        data_dir: where prepared data sets lie.
        examples: how many images.
        bound: of the measure that `BOUNDS` has for `quantize`, in place of its value there.
        seed: of the choice of calibration images.
        skip_bad: go on without the bad files of a folder.
        format: "web": `out` becomes a static page that classifies images in the browser with the
            ONNX file, which is what is proved; None: what the suffix says.

    Returns:
        The report, as it is written to `OUT.report.json`; beside it, `OUT.md` is a model card for
        people (Hugging Face's front matter). It holds:

        - `model file`, `dataset`, and what `compare` found: `examples`, `max_difference`,
          `mean_difference`, `top1_agreement`, `top1`, `top1_source`;
        - `measure`, `bound`, `kept`, `reason`: the verdict;
        - `quantize`, `io`, `keep_float`, `layout`, `opset`, `calibration` (`dataset`, `split`, and
          `examples`, `seed`, or that it is `fine_tuned`): how it was made, None where it does not
          apply;
        - `layers`: of int8, `layer` and `error`, the largest first: what quantizing this layer
          alone changes, as a share of what its output tells apart (see `errors.LayerErrors`);
        - `operators` and how often each is there; `bytes`, `bytes_source` and, if quantized,
          `bytes_float32` of the same format in float32;
        - if kept, `latency_ms` of one image, `latency_ms_source`, `latency_ms_float32`, by
          threads, measured in turns, and `cores` of this machine;
        - `seconds` that all took, `command`; of a page also `format`.

    Raises:
        InputError: a file, data set, layer or format that is not there, or options that do not go
            together.
        BoundMissed: the result is not equal; no new `out` is left, and an old one is as it was. The
            report says how far it is.
    """
    start = time.perf_counter()
    source, out = Path(model_file), Path(os.path.abspath(out))
    _require_range(examples, seed, format)
    if format == "web":
        return _export_page(
            source, out, quantize=quantize, calibrate=calibrate, io=io, keep_float=keep_float,
            layout=layout, opset=opset, dataset=dataset, data_dir=data_dir, examples=examples,
            bound=bound, seed=seed, skip_bad=skip_bad,
        )  # fmt: skip
    _require_known(source, out, quantize, io, keep_float, calibrate, layout, opset)
    _require_places(out)
    if quantize == "int8":
        io = io or "uint8"
    if out.suffix == ".onnx":
        layout, opset = layout or "nhwc", opset or 17
    # As Keras runs it: what is proved may not share the folding with what proves it.
    original = open_model_file(source, folded=False)
    say_what_is_made_up(original)
    metadata = original.metadata
    proof = {"dataset": dataset, "data_dir": data_dir, "skip_bad": skip_bad}
    # Before the long work: a data set that is not there is found now.
    image, _ = next(batches(original, open_split_for(original, source_for(original, **proof)), 1))
    images = calibration = None
    tuned = _tuned_ranges(source, out, quantize, calibrate, keep_float)
    if tuned:
        calibration = {"dataset": metadata.dataset, "split": "train", "fine_tuned": True}
    elif quantize == "int8":
        images, calibration = _calibration_images(
            original, calibrate or metadata.dataset or dataset, data_dir, seed, skip_bad
        )
    model = load_keras(source)
    with whole(out) as part:
        float32 = part.with_name(f"float32-{out.name}")
        copy = part.with_name(f"plain-{out.name}.keras")
        if any(layer.compute_dtype != "float32" for layer in model.layers):
            say(f"{source} computes in {model.dtype_policy.name}; float32 is what is exported")
            save_plain(model, copy)
            original = dataclasses.replace(
                open_model_file(copy, folded=False), path=source, metadata=metadata
            )
        say(f"converting to {_NAMES[out.suffix]}, {quantize.replace('none', 'float32')}")
        if out.suffix == ".keras":
            save_plain(model, part)
            errors = {}
        else:
            rounding = to_convert(aware(model, tuned)) if tuned else None
            model = folded(model, rescale_rows=layout != "nchw")
            errors = _convert(
                rounding or model, part, metadata, layout, opset, quantize=quantize,
                images=images, io=io, keep_float=tuple(keep_float),
            )  # fmt: skip
        metadata.write(part)
        say(f"proving on {examples} test images of {dataset or metadata.dataset}")
        candidate = open_model_file(part, folded=False)
        report = {"model_file": str(source), "dataset": dataset or metadata.dataset}
        report |= compare(original, candidate, **proof, examples=examples)
        measure, default = BOUNDS[quantize]
        bound = default if bound is None else bound
        operators, unwelcome = _audit(part, layout)
        reason = reason_to_refuse(report, measure, bound) or unwelcome
        report |= {
            "measure": measure, "bound": bound, "kept": reason is None, "reason": reason,
            "quantize": quantize, "io": io, "keep_float": list(keep_float), "layout": layout,
            "opset": opset, "calibration": calibration, "layers": _worst_first(errors),
            "operators": operators, "bytes": size(part), "bytes_source": size(source),
        }  # fmt: skip
        if reason is None:
            say("measuring latency")
            measured = {"latency_ms": candidate, "latency_ms_source": original}
            if quantize != "none":
                _convert(model, float32, metadata, layout, opset)
                report["bytes_float32"] = size(float32)
                measured["latency_ms_float32"] = open_model_file(float32)
            report |= latencies(measured, image) | {"cores": os.cpu_count()}
        report |= {"seconds": round(time.perf_counter() - start, 1), "command": command()}
        if reason is not None:
            _write_report(report, out)
            raise BoundMissed(f"{out} was not kept: {reason} (against {source}).")
        _write_report(report | _BROKEN_OFF, out)
        os.replace(metadata_path(part), metadata_path(out))
    _write_report(report, out)
    write_text(out.with_name(f"{out.name}.md"), model_card(report, metadata, out.name))
    return report


def _export_page(source: Path, out: Path, **options) -> dict[str, Any]:
    """The static page: its ONNX file, proved, and what runs it in a browser."""
    from resnet_keras.exporting.web import write_web

    if out.exists() and not _is_page(out) and not _empty(out):
        raise InputError(f"this is there and is no such page. Received: {out}")
    _require_card_for_people(out)
    with whole(out) as page:
        onnx = page.with_name(f"{out.name}-model.onnx")
        try:
            report = export(source, onnx, **options)
        except BoundMissed as missed:  # it names the part, which is gone
            os.replace(f"{onnx}.report.json", f"{out}.report.json")
            raise BoundMissed(str(missed).replace(str(onnx), str(out))) from None
        metadata = open_model_file(onnx).metadata
        write_web(onnx, metadata, page)
        report |= {"format": "web", "bytes": size(page)}
        _write_report(report | _BROKEN_OFF, out)
    _write_report(report, out)
    write_text(
        out.with_name(f"{out.name}.md"), model_card(report, metadata, f"{out.name}/model.onnx")
    )
    return report


def _write_report(report: dict[str, Any], out: Path) -> None:
    write_text(out.with_name(f"{out.name}.report.json"), json.dumps(report, indent=1) + "\n")


def _is_page(folder: Path) -> bool:
    """Whether a folder is such a page; `embedded.js` may have been deleted."""
    return all((folder / name).is_file() for name in ("app.js", "metadata.js", "model.onnx"))


def _tuned_ranges(source: Path, out: Path, quantize: str, calibrate, keep_float) -> dict | None:
    """The ranges that fine-tuning for int8 has found, where they are there and wanted."""
    if quantize != "int8" or out.suffix != ".tflite" or calibrate or keep_float:
        return None
    return read_ranges(source)


def _empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _require_range(examples: int, seed: int, format: str | None) -> None:
    """Refuse numbers and words that no export can have."""
    if examples < 1:
        raise InputError(f"`examples` must be above 0. Received: examples={examples}")
    if seed < 0:
        raise InputError(f"`seed` must be 0 or more. Received: seed={seed}")
    if format not in (None, "web"):
        raise InputError(f"`format` is None or 'web'. Received: format={format!r}")


def _require_known(source, out, quantize, io, keep_float, calibrate, layout, opset) -> None:
    """Refuse what is not there, and options that do not go together."""
    if source.suffix != ".keras":
        raise InputError(f"`export` starts from a .keras file. Received: {source}")
    if out.suffix not in FORMATS:
        raise InputError(
            f"OUT ends in .tflite, .onnx, .keras or nothing (SavedModel). Received: {out}"
        )
    name = out.suffix or "a SavedModel"
    if quantize not in FORMATS[out.suffix]:
        raise InputError(
            f"`quantize` of {name} is {', '.join(FORMATS[out.suffix])}. "
            f"Received: quantize={quantize!r}"
        )
    for option, value in (("io", io), ("calibrate", calibrate), ("keep_float", keep_float)):
        if value and quantize != "int8":
            raise InputError(f"`{option}` is for int8 only. Received: {option}={value!r}")
    if io is not None and io not in IO[out.suffix]:
        raise InputError(f"`io` of {name} is {', '.join(IO[out.suffix])}. Received: io={io!r}")
    for option, value in (("layout", layout), ("opset", opset)):
        if value is not None and out.suffix != ".onnx":
            raise InputError(f"`{option}` is for .onnx only. Received: {option}={value!r}")
    if layout not in (None, *LAYOUTS):
        raise InputError(f"`layout` is {' or '.join(LAYOUTS)}. Received: layout={layout!r}")
    if opset is not None and not 13 <= opset <= 18:
        raise InputError(f"`opset` is 13 to 18. Received: opset={opset}")
    if out.is_dir() and (out.suffix or not _replaceable(out)):
        raise InputError(f"this folder is there and is no SavedModel. Received: {out}")
    if out.is_file() and not out.suffix:
        raise InputError(f"this file is there and is no SavedModel. Received: {out}")


def _require_places(out: Path) -> None:
    """Refuse to replace what another program wrote beside `out`."""
    require_place(out)
    _require_card_for_people(out)


def _require_card_for_people(out: Path) -> None:
    page = out.with_name(f"{out.name}.md")
    if page.exists() and not (page.is_file() and page.read_bytes().startswith(b"---")):
        raise InputError(
            f"{page} is there and is no model card, which would replace it: take another name for "
            f"OUT. Received: {out}"
        )


def _replaceable(folder: Path) -> bool:
    """Whether a folder is a SavedModel or empty: nothing else is ever removed."""
    return (folder / "saved_model.pb").exists() or _empty(folder)


def _calibration_images(
    original: ModelFile, dataset: str | None, data_dir, seed: int, skip_bad: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Training images as evaluation prepares them, `(n, h, w, c)` uint8; where they are from."""
    if dataset is None:
        raise InputError(f"no data set is known for {original.path}; name one with --calibrate.")
    split = data.Source(dataset, "train", data_dir=data_dir, skip_bad=skip_bad).open()
    require_channels(original, split)
    some = split.sample(CALIBRATION_IMAGES, seed=seed)
    say(f"calibrating on {some.examples} training images of {dataset}")
    kept = [images for images, _ in batches(original, some, 32)]
    kept = np.concatenate(kept)[:CALIBRATION_IMAGES]
    if len(kept) < LEAST_IMAGES:
        raise InputError(
            f"int8 needs at least {LEAST_IMAGES} training images to calibrate on. Received: "
            f"{len(kept)} of {dataset}"
        )
    return kept, {
        "dataset": dataset, "split": "train", "examples": len(kept), "seed": seed,
    }  # fmt: skip


def _convert(model, path: Path, metadata, layout, opset, **quantization) -> dict[str, float]:
    """Write a folded model in the format that the suffix names; errors of the layers, if int8."""
    # Lazily: to train and save a model needs none of the converters.
    if path.suffix == ".tflite":
        from resnet_keras.exporting import tflite

        return tflite.write(model, path, metadata, **quantization)
    if path.suffix == ".onnx":
        from resnet_keras.exporting import onnx

        return onnx.write(model, path, metadata, layout=layout, opset=opset, **quantization)
    from resnet_keras.exporting import saved_model

    saved_model.write(model, path, metadata)
    return {}


def _worst_first(errors: dict[str, float]) -> list[dict[str, Any]]:
    """The layers by their error; those that only move values have none."""
    ranked = sorted(errors.items(), key=lambda pair: -pair[1])
    return [{"layer": n, "error": float(f"{e:.3g}")} for n, e in ranked if e > _NO_ERROR]


def _audit(path: Path, layout: str | None) -> tuple[dict[str, int] | None, str | None]:
    """The operators of a file, and why they are not welcome, if they are not."""
    if path.suffix == ".keras":
        return None, None
    if path.suffix == ".tflite":
        from resnet_keras.exporting.tflite import operators

        found = operators(path)
        bad = [name for name in found if name.startswith("CUSTOM")]
    elif path.suffix == ".onnx":
        from resnet_keras.exporting.onnx import operators

        found = operators(path)
        bad = [name for name in found if "." in name or name == "BatchNormalization"]
        if found.get("Transpose", 0) > (0 if layout == "nchw" else 1):
            bad.append("Transpose")
    else:
        from resnet_keras.exporting.saved_model import operators

        found = operators(path)
        bad = [name for name in found if "BatchNorm" in name]
    reason = f"it needs {', '.join(bad)}, which is not built in or was to be removed"
    return found, reason if bad else None
