"""A trained model -> plain `.keras`, SavedModel, `.tflite`, with the proof that it is equal."""

import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.artefact import Artefact, card_path, open_artefact, write_text
from resnet_keras.evaluate import test_batches
from resnet_keras.terminal import InputError

# Largest difference of a probability that a float32 format may show.
FLOAT32_BOUND = 1e-4


class BoundMissed(Exception):
    """An exported file computes something else; it was not kept."""


def plain(model: keras.Model) -> keras.Model:
    """A twin of a trained model that anybody can load: float32, stock layers, softmax, uncompiled.

    Args:
        model: as `train` builds it: any precision, any batch norm, logits or probabilities.

    Returns:
        A model with the same weights.
    """

    def stock(layer):
        config = {**layer.get_config(), "dtype": "float32"}
        kind = type(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            kind, config = keras.layers.BatchNormalization, {**config, "synchronized": False}
            config.pop("replicas", None)
        if layer.name == "predictions":
            config["activation"] = "softmax"
        return kind.from_config(config)

    # Keras clones how a model was compiled, too; the graph alone is not compiled.
    graph = keras.Model(model.input, model.output, name=model.name)
    twin = keras.models.clone_model(graph, clone_function=stock)
    twin.set_weights(model.get_weights())
    return twin


def save_plain(model: keras.Model, path: Path) -> None:
    """Write `plain(model)` as `.keras`, whole or not at all."""
    part = path.with_name(f"part-{path.name}")  # Keras wants the suffix
    plain(model).save(part)
    os.replace(part, path)


def export(
    artefact: str | Path,
    out: str | Path,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    examples: int = 256,
    bound: float = FLOAT32_BOUND,
) -> dict[str, Any]:
    """Convert a `.keras` model and prove the result equal on real test pictures.

    Args:
        artefact: a `.keras` file.
        out: `.tflite`, `.keras`, or a name without suffix: a SavedModel.
        dataset: whose test pictures the proof runs on; by default what the model was trained on.
        data_dir: where prepared data sets lie.
        examples: how many pictures.
        bound: the largest difference of a probability that is still equal.

    Returns:
        The report, as it is written to `OUT.report.json`: `max_difference` and `mean_difference`
        of the probabilities, `top1_agreement`, `top1`, `top1_source`, `examples`, `bytes`,
        `latency_ms`, `operators`, `bound`, `command`.

    Raises:
        InputError: a file or data set that is not there, or a suffix that is no format.
        BoundMissed: the result is not equal; no `out` is left, the report says how far it is.
    """
    source, out = Path(artefact), Path(out)
    writers = {".tflite": _write_tflite, ".keras": save_plain, "": _write_saved_model}
    if source.suffix != ".keras":
        raise InputError(f"`export` starts from a .keras file. Received: {source}")
    if out.suffix not in writers:
        raise InputError(f"OUT ends in .tflite, .keras or nothing (SavedModel). Received: {out}")
    original = open_artefact(source)
    model = keras.saving.load_model(source, compile=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"part-{out.name}")
    _remove(part)
    writers[out.suffix](model, part)
    original.card.write(part)
    report = compare(
        original, open_artefact(part), dataset=dataset, data_dir=data_dir, examples=examples
    )
    report |= {"bound": bound, "operators": _operators(part), "command": _command()}
    write_text(out.with_name(f"{out.name}.report.json"), json.dumps(report, indent=1) + "\n")
    os.replace(card_path(part), card_path(out))
    if not report["max_difference"] < bound:
        _remove(part)
        raise BoundMissed(
            f"{out} was not kept: its probabilities differ from {source} by up to "
            f"{report['max_difference']:.1e}, allowed is {bound:.0e}."
        )
    _remove(out)
    os.replace(part, out)
    return report


def compare(
    original: Artefact,
    candidate: Artefact,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    examples: int = 256,
) -> dict[str, Any]:
    """How far two artefacts are apart on real test pictures; the keys are those of `export`."""
    largest, total, agreed, right, right_source, seen = 0.0, 0.0, 0, 0, 0, 0
    batches = test_batches(original, dataset=dataset, data_dir=data_dir, batch_size=32)
    for images, labels in batches:
        images, labels = images[: examples - seen], labels[: examples - seen]
        expected, got = original.predict(images), candidate.predict(images)
        difference = np.abs(got.astype(np.float64) - expected)
        largest = max(largest, float(difference.max()))
        total += float(difference.mean()) * len(images)
        agreed += int(np.sum(got.argmax(1) == expected.argmax(1)))
        right += int(np.sum(got.argmax(1) == labels))
        right_source += int(np.sum(expected.argmax(1) == labels))
        seen += len(images)
        if seen >= examples:
            break
    one = images[:1]
    return {
        "examples": seen,
        "max_difference": largest,
        "mean_difference": total / seen,
        "top1_agreement": agreed / seen,
        "top1": right / seen,
        "top1_source": right_source / seen,
        "bytes": _bytes(candidate.path),
        "bytes_source": _bytes(original.path),
        "latency_ms": _latency(candidate, one),
        "latency_ms_source": _latency(original, one),
    }


def _write_saved_model(model: keras.Model, path: Path) -> None:
    """A SavedModel with the signature `serve`: `images` -> probabilities."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    shape = (None, *model.input_shape[1:])
    spec = keras.InputSpec(shape=shape, dtype="float32", name="images")
    archive.add_endpoint("serve", model.call, input_signature=[spec])
    archive.write_out(path, verbose=False)


def _write_tflite(model: keras.Model, path: Path) -> None:
    """A TFLite file of built-in operators only: it runs everywhere TFLite does."""
    import tensorflow as tf

    folder = path.with_name(f"{path.name}-saved-model")
    _write_saved_model(model, folder)
    try:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serve"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        path.write_bytes(converter.convert())
    finally:
        _remove(folder)


def _operators(path: Path) -> dict[str, int] | None:
    """How often each operator stands in a TFLite file."""
    if path.suffix != ".tflite":
        return None
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without delegates, which hide the operators that they take over.
    plain_ops = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain_ops)
    interpreter.allocate_tensors()
    names = (operator["op_name"] for operator in interpreter._get_ops_details())
    return dict(sorted(Counter(names).items()))


def _latency(artefact: Artefact, image: np.ndarray, rounds: int = 20) -> float:
    """Median milliseconds of one picture."""
    times = []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        artefact.predict(image)
        times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times[3:])), 3)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
