"""`python -m resnet_keras VERB`, installed also as `resnet-keras`."""

import dataclasses
import functools
import json as json_format
import os
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from resnet_keras.console import (
    exit_with_one_line,
    load_tensorflow,
    printable,
    say,
    stopping,
    text_to,
)
from resnet_keras.errors import InputError
from resnet_keras.recipe.command import one_line

Positional = tyro.conf.Positional


def summary(
    name: Positional[str],
    *,
    classes: int | None = None,
    input_size: int | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Parameters and multiply-adds of a network.

    Args:
        name: a name in SPECS.
        classes: classes of the head.
        input_size: height and width of an image.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras.models import count
    from resnet_keras.zoo import ResNet

    shape = None if input_size is None else (input_size, input_size, 3)
    try:
        return count(ResNet(name, classes=classes, input_shape=shape))
    except ValueError as error:
        raise InputError(str(error)) from error


def evaluate(
    model_file: Positional[Path],
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
    save: Path | None = None,
    calibrate_on: str | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Accuracy and calibration on every image of a split.

    Args:
        model_file: a .keras, .tflite or .onnx file, or a SavedModel folder.
        dataset: digits, a TFDS name or folder:PATH; by default what the model was trained on.
        data_dir: where prepared data sets lie.
        split: test, train, or a split as TFDS writes it.
        skip_bad: go on without the bad files of a folder.
        batch_size: images at a time.
        save: an .npz file for the scores of every image.
        calibrate_on: fit a temperature on this split, which the network was not trained on.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras.evaluation import evaluate

    return evaluate(
        model_file,
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        skip_bad=skip_bad,
        batch_size=batch_size,
        save=save,
        calibrate_on=calibrate_on,
    )


def prepare(
    dataset: Positional[str],
    *,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    verify: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """Check the archives of a data set, then build it with TFDS, then check what was built.

    Args:
        dataset: a TFDS name, or folder:PATH, whose images are checked.
        manual_dir: where the archives lie.
        data_dir: where prepared data sets lie.
        verify: decode every image of the archives before.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras import data

    return data.prepare(dataset, manual_dir=manual_dir, data_dir=data_dir, verify=verify)


def predict(
    model_file: Positional[Path],
    images: Positional[tuple[Path, ...]],
    *,
    top: int = 5,
    json: bool = False,
) -> dict[str, Any]:
    """The most likely classes of images.

    Args:
        model_file: a .keras, .tflite or .onnx file, or a SavedModel folder.
        images: JPEG, PNG, GIF, BMP or WebP files.
        top: how many classes.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras import data
    from resnet_keras.model_files import open_model_file, warn_of_missing_metadata

    if not images:
        raise InputError("`predict` needs at least one image.")
    if top < 1:
        raise InputError(f"`top` must be above 0. Received: top={top}")
    model = open_model_file(model_file)
    metadata = model.metadata
    warn_of_missing_metadata(model)
    answers = {}
    for path in images:
        image = data.evaluation_image(data.read_image(path, model.channels), metadata.preprocessing)
        scores = model.predict(image.numpy()[None])[0]
        best = scores.argsort()[::-1][:top]
        names = metadata.labels or [str(i) for i in range(len(scores))]
        answers[str(path)] = [{"label": names[i], "score": float(scores[i])} for i in best]
    return answers


def export(
    model_file: Positional[Path],
    out: Positional[Path],
    *,
    quantize: Literal["none", "float16", "dynamic", "int8"] = "none",
    calibrate: str | None = None,
    io: Literal["uint8", "int8", "float32"] | None = None,
    keep_float: str | None = None,
    layout: Literal["nhwc", "nchw"] | None = None,
    opset: int | None = None,
    dataset: str | None = None,
    data_dir: Path | None = None,
    examples: int = 256,
    bound: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    format: Literal["web"] | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Convert a model, and prove the result equal on real test images.

    Args:
        model_file: a .keras file.
        out: .tflite, .onnx, .keras, or a name without suffix: a SavedModel.
        quantize: float16, dynamic or int8 for .tflite, int8 for .onnx.
        calibrate: data set whose training images int8 is calibrated on; by default what the
            model was trained on.
        io: pixels and probabilities of int8; by default uint8: raw bytes.
        keep_float: layers that int8 leaves in float, LAYER[,LAYER]; the report lists them by error.
        layout: of .onnx; by default nhwc.
        opset: of .onnx, 13 to 18; by default 17.
        dataset: whose test images the proof runs on; by default what it was trained on.
        data_dir: where prepared data sets lie.
        examples: how many images.
        bound: largest difference of a probability (float32: 1e-4, float16: 5e-3), or least share of
            images with the same likeliest class (dynamic, int8: 0.99).
        seed: of the choice of calibration images.
        skip_bad: go on without the bad files of a folder.
        format: web: OUT becomes a folder with a page that classifies images in the browser.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras.exporting import BoundMissed, export

    try:
        return export(
            model_file,
            out,
            quantize=quantize,
            calibrate=calibrate,
            io=io,
            keep_float=keep_float.split(",") if keep_float else (),
            layout=layout,
            opset=opset,
            dataset=dataset,
            data_dir=data_dir,
            examples=examples,
            bound=bound,
            seed=seed,
            skip_bad=skip_bad,
            format=format,
        )
    except BoundMissed as missed:
        say(f"error: {missed}")
        raise SystemExit(1) from None


def report(
    runs: Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    data_dir: Path | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """One page about a run, or about several: curves, mistakes, calibration, exports.

    Args:
        runs: run folders; several are compared.
        out: the page; by default report.html in the first folder.
        data_dir: where prepared data sets lie.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras.report import write_report

    page = write_report(runs, out=out, data_dir=data_dir)
    return {"report": str(page), "bytes": page.stat().st_size}


def convert(
    source: Positional[str],
    out: Positional[Path],
    *,
    model: str | None = None,
    classes: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    stride_in_1x1: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """Turn anybody's checkpoint into a .keras model, or a model into weights for PyTorch.

    Args:
        source: .pth, .safetensors, .h5, .weights.h5, .keras or hf://org/repo.
        out: .keras, or .safetensors for PyTorch (torchvision's names).
        model: a name in SPECS; by default what the file's names and shapes tell.
        classes: of the head; by default as many as the file has.
        mean: of the pixels, R,G,B, 0-255; by default ImageNet's or CIFAR-10's.
        std: likewise.
        stride_in_1x1: a caffe-style network, which no PyTorch file tells.
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    from resnet_keras.model_files import require_replaceable_metadata
    from resnet_keras.weights import convert

    if out.suffix == ".keras":
        require_replaceable_metadata(out)
    report = convert(
        source,
        out,
        model=model,
        classes=classes,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        stride_in_1x1=stride_in_1x1,
    )
    say(report)
    if out.suffix == ".keras":
        _default_metadata(out, antialias=report.naming != "OpenMMLab").write(out)
    return dataclasses.asdict(report)


def doctor(*, json: bool = False) -> dict[str, Any]:
    """Versions, devices, and the precision that `auto` would pick here, with the reason.

    Args:
        json: print one line of JSON on stdout, all else on stderr.
    """
    load_tensorflow()
    import tensorflow as tf

    from resnet_keras.training import choose_precision, versions

    precision, reason = choose_precision()
    return versions() | {
        "cores": os.cpu_count(),
        "devices": ", ".join(d.name for d in tf.config.list_physical_devices()),
        "precision": precision,
        "because": reason,
    }


def _default_metadata(path: Path, *, antialias: bool):
    """The metadata of a network whose recipe is not known: as the published ones were evaluated."""
    from resnet_keras.model_files import Metadata, open_model_file
    from resnet_keras.preprocessing import Preprocessing

    size = open_model_file(path, beside=False).metadata.preprocessing.size
    resize = 256 * min(size) // 224 if min(size) > 32 else None
    return Metadata(Preprocessing(size, resize, antialias=antialias))


def _numbers(field: str, text: str | None) -> list[float] | None:
    """`123.7,116.3,103.5` as numbers."""
    try:
        return text and [float(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"`{field}` must be numbers, R,G,B. Received: {field}={text!r}") from None


VERBS = {
    function.__name__: function
    for function in (summary, convert, prepare, predict, evaluate, export, report, doctor)
}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb; its answer goes to stdout, all else to stderr."""
    exit_with_one_line()
    arguments = sys.argv[1:] if arguments is None else arguments
    stdout = text_to(os.dup(1), sys.stdout)
    if not {"-h", "--help"} & set(arguments):
        os.dup2(2, 1)  # libraries that print on stdout from C++, too
    # Only the parser runs inside: what a verb says on stderr must be seen while it works.
    verbs = {name: _later(verb) for name, verb in VERBS.items()}
    verb = one_line(
        lambda: tyro.extras.subcommand_cli_from_dict(
            verbs, prog="resnet-keras", description=__doc__, args=arguments
        )
    )
    with stopping("Give the same command again."):
        answer = verb()
    if "--json" in arguments:
        print(json_format.dumps(answer), file=stdout, flush=True)
    else:
        _show(answer, stdout)


def _later(verb):
    """A function with the arguments of a verb that gives the call of it, to be made later."""

    @functools.wraps(verb)
    def bind(*positional, **named):
        return functools.partial(verb, *positional, **named)

    return bind


def _show(answer: dict[str, Any], stdout) -> None:
    """A table of what a verb answered; names of files and classes steer no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    for key, value in answer.items():
        if key == "per_class":
            key, value = "hardest classes", _hardest(value)
        elif key == "layers":  # of an int8 file
            value = "\n".join(f"{item['error']:8.3g}  {item['layer']}" for item in value[:5])
        elif isinstance(value, list) and value and isinstance(value[0], dict):  # of an image
            value = "\n".join(
                f"{100 * item['score']:6.2f} %  {printable(item['label'])}" for item in value
            )
        elif isinstance(value, tuple):  # names of tensors
            value = f"{len(value)} tensors"
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {count}" for name, count in value.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        lines = map(printable, str(value).split("\n"))
        table.add_row(Text(printable(key)), Text("\n".join(lines)))
    Console(file=stdout).print(table)


def _hardest(classes: dict[str, float | None], most: int = 5) -> str:
    """The classes with the lowest top-1."""
    seen = sorted((share, name) for name, share in classes.items() if share is not None)
    return "\n".join(f"{100 * share:6.2f} %  {printable(name)}" for share, name in seen[:most])


if __name__ == "__main__":
    main()
