"""A trained model -> plain `.keras`, SavedModel, `.tflite`, `.onnx`, with the proof of equality."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras import data
from resnet_keras.artefact import Artefact, card_path, open_artefact, write_text
from resnet_keras.evaluate import test_batches
from resnet_keras.export.plain import folded, plain, save_plain
from resnet_keras.export.proof import BOUNDS, compare, latencies, reason_to_refuse, size
from resnet_keras.terminal import InputError

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

# Ranges are taken from so many training pictures; fewer than that many are refused.
CALIBRATION_PICTURES, LEAST_PICTURES = 200, 100


class BoundMissed(Exception):
    """An exported file computes something else, or needs what is not everywhere; it is not kept."""


def export(
    artefact: str | Path,
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
) -> dict[str, Any]:
    """Convert a `.keras` model and prove the result equal on real test pictures.

    Args:
        artefact: a `.keras` file.
        out: `.tflite`, `.onnx`, `.keras`, or a name without suffix: a SavedModel.
        quantize: "none"; "float16", "dynamic" (int8 weights) or "int8" (weights and activations)
            for `.tflite`; "int8" for `.onnx`.
        calibrate: for int8, the data set whose training pictures tell the ranges of activations;
            by default what the model was trained on.
        io: for int8, the type of pixels and probabilities: "uint8" (the default; pixels are raw
            bytes), "int8" or "float32". In `.onnx`, of pixels, "uint8" or "float32".
        keep_float: for int8, layers that are not quantized; the report lists all by their error.
        layout: of `.onnx`: "nhwc" (the default) or "nchw".
        opset: of `.onnx`, 13 to 18; by default 17.
        dataset: whose test pictures the proof runs on; by default what the model was trained on.
        data_dir: where prepared data sets lie.
        examples: how many pictures.
        bound: of the measure that `BOUNDS` has for `quantize`, in place of its value there.
        seed: of the choice of calibration pictures.
        skip_bad: go on without the bad files of a folder.

    Returns:
        The report, as it is written to `OUT.report.json`. Of `compare`: `examples`,
        `max_difference`, `mean_difference`, `top1_agreement`, `top1`, `top1_source`. Also
        `dataset`; `measure`, `bound` and `kept`; `quantize`, `io`, `keep_float`, `layout`, `opset`;
        `calibration` (`dataset`, `split`, `examples`, `seed`); `layers`, a list of `layer` and
        `error`, the largest first; `operators` and how often each is there; `bytes` and
        `bytes_source`; `latency_ms` and `latency_ms_source` by threads, with `cores`; for a
        quantized file `bytes_float32` and `latency_ms_float32` of the same file in float32;
        `seconds`; `command`. What does not apply is None.

    Raises:
        InputError: a file, data set, layer or format that is not there, or options that do not go
            together.
        BoundMissed: the result is not equal; no new `out` is left, and an old one is as it was. The
            report says how far it is.
    """
    start = time.perf_counter()
    source, out = Path(artefact), Path(os.path.abspath(out))
    _require_known(source, out, quantize, io, keep_float, calibrate, layout, opset)
    if quantize == "int8":
        io = io or "uint8"
    if out.suffix == ".onnx":
        layout, opset = layout or "nhwc", opset or 17
    original = open_artefact(source)
    card = original.card
    proof = {"dataset": dataset, "data_dir": data_dir, "skip_bad": skip_bad}
    # Before the long work: a data set that is not there is found now.
    image, _ = next(iter(test_batches(original, **proof, batch_size=1)))
    pictures = calibration = None
    if quantize == "int8":
        calibration = {
            "dataset": calibrate or card.dataset or dataset,
            "split": "train",
            "seed": seed,
        }
        pictures = _calibration_pictures(original, calibration, data_dir, skip_bad)
        calibration["examples"] = len(pictures)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        part = Path(folder) / out.name
        kind = f"{_NAMES[out.suffix]} {'float32' if quantize == 'none' else quantize}"
        _say(f"converting to {kind}")
        model = keras.saving.load_model(source, compile=False)
        options = {"layout": layout, "opset": opset}
        errors = _write(
            model, part, card, options, quantize=quantize, pictures=pictures, io=io,
            keep_float=tuple(keep_float),
        )  # fmt: skip
        card.write(part)
        _say(f"proving on {examples} test pictures of {dataset or card.dataset}")
        report = compare(original, open_artefact(part), **proof, examples=examples)
        measure, default = BOUNDS[quantize]
        bound = default if bound is None else bound
        operators, reason = _audit(part, layout)
        reason = reason_to_refuse(report, measure, bound) or reason
        report |= {
            "dataset": dataset or card.dataset, "measure": measure, "bound": bound,
            "kept": reason is None, "reason": reason, "quantize": quantize, "io": io,
            "keep_float": list(keep_float), **options, "calibration": calibration,
            "operators": operators, "bytes": size(part), "bytes_source": size(source),
            "cores": os.cpu_count(),
        }  # fmt: skip
        if reason is None:
            _say("measuring latency")
            compared = [part, source]
            if quantize != "none":
                compared.append(Path(folder) / f"float32{out.suffix}")
                _write(model, compared[-1], card, options)
                report["bytes_float32"] = size(compared[-1])
            keys = ("latency_ms", "latency_ms_source", "latency_ms_float32")
            report |= dict(zip(keys, latencies(compared, image), strict=False))
        worst = sorted(errors.items(), key=lambda pair: -pair[1])
        report["layers"] = [
            {"layer": layer, "error": float(f"{error:.3g}")} for layer, error in worst
        ]
        report |= {"seconds": round(time.perf_counter() - start, 1), "command": _command()}
        write_text(out.with_name(f"{out.name}.report.json"), json.dumps(report, indent=1) + "\n")
        if reason is not None:
            raise BoundMissed(f"{out} was not kept: {reason} (against {source}).")
        os.replace(card_path(part), card_path(out))
        if out.is_dir():  # a folder cannot be replaced while it is there
            os.replace(out, Path(folder) / "old")
        os.replace(part, out)
    return report


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


def _replaceable(folder: Path) -> bool:
    """Whether a folder is a SavedModel or empty: nothing else is ever removed."""
    return (folder / "saved_model.pb").exists() or not any(folder.iterdir())


def _calibration_pictures(
    original: Artefact, calibration: dict, data_dir: str | Path | None, skip_bad: bool
) -> np.ndarray:
    """Training pictures as evaluation prepares them: uint8 `(n, height, width, channels)`."""
    dataset, card = calibration["dataset"], original.card
    if dataset is None:
        raise InputError(f"no data set is known for {original.path}; name one with --calibrate.")
    split = data.open_split(dataset, "train", data_dir=data_dir, skip_bad=skip_bad)
    if split.channels != original.channels:
        raise InputError(
            f"{original.path} takes pictures of {original.channels} channels, {dataset} has "
            f"{split.channels}."
        )
    some = data.sample(split, CALIBRATION_PICTURES, seed=calibration["seed"])
    _say(f"calibrating: reading {some.examples} training pictures of {dataset}")
    batches = data.evaluation_batches(
        some,
        size=card.crop,
        batch_size=32,
        resize=card.eval_resize,
        interpolation=card.interpolation,
        antialias=card.antialias,
    )
    with data.naming_files():
        pictures = np.concatenate([images for images, _ in batches.as_numpy_iterator()])
    if len(pictures) < LEAST_PICTURES:
        raise InputError(
            f"int8 needs at least {LEAST_PICTURES} training pictures to calibrate on. Received: "
            f"{len(pictures)} of {dataset}"
        )
    return pictures[:CALIBRATION_PICTURES]


def _write(model: keras.Model, path: Path, card, options: dict, **quantization) -> dict[str, float]:
    """Write the format that the suffix names; the errors of the layers, if it is quantized."""
    if path.suffix == ".keras":
        save_plain(model, path)
        return {}
    model = folded(model)
    # Lazily: to train and save a model needs none of the converters.
    if path.suffix == ".tflite":
        from resnet_keras.export import tflite

        return tflite.write(model, path, card, **quantization)
    if path.suffix == ".onnx":
        from resnet_keras.export import onnx

        return onnx.write(model, path, card, **options, **quantization)
    from resnet_keras.export import saved_model

    saved_model.write(model, path, card)
    return {}


def _audit(path: Path, layout: str | None) -> tuple[dict[str, int] | None, str | None]:
    """The operators of a file, and why they are not welcome, if they are not."""
    if path.suffix == ".keras":
        return None, None
    if path.suffix == ".tflite":
        from resnet_keras.export.tflite import operators

        found = operators(path)
        bad = [name for name in found if name.startswith("CUSTOM")]
    elif path.suffix == ".onnx":
        from resnet_keras.export.onnx import operators

        found = operators(path)
        bad = [name for name in found if "." in name or name == "BatchNormalization"]
        if found.get("Transpose", 0) > (0 if layout == "nchw" else 1):
            bad.append("Transpose")
    else:
        from resnet_keras.export.saved_model import operators

        found = operators(path)
        bad = [name for name in found if "BatchNorm" in name]
    reason = f"it needs {', '.join(bad)}, which is not built in or was to be removed"
    return found, reason if bad else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
