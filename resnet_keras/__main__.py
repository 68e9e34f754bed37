"""ResNets for Keras 3: convert, evaluate, predict, export and report.

To train: `run quickstart --epochs 2`. `run --help` lists the recipes.
`COMMAND --help` explains a command; `--version` prints the version.
"""

import ast
import csv
import dataclasses
import functools
import inspect
import io
import json as json_format
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, cast

try:
    import tyro
    from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg
except ModuleNotFoundError as missing:  # of `pip install resnet-keras` without extras
    print(
        "error: the command line needs more packages: pip install 'resnet-keras[train]'. "
        f"Received: {missing}",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

from resnet_keras import __version__
from resnet_keras.arguments import did_you_mean, parsed
from resnet_keras.console import exit_with_one_line, load_tensorflow, say, text_to
from resnet_keras.errors import InputError
from resnet_keras.signals import stopping
from resnet_keras.text import printable

PROGRAM = "resnet-keras"

# A function with its arguments bound, and whether its result is printed as JSON.
Bound = tuple[Callable[[], Any], bool]

# The commands by name.
VERBS: dict[str, Callable[..., Bound]] = {}

# How `--help` shows arguments. Where None is the default, the help text says what that means.
ModelFile = Annotated[Path, arg(metavar="MODEL_FILE")]
Out = Annotated[Path, arg(metavar="OUT")]
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Channels = Annotated[str | None, arg(metavar="R,G,B", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
Integer = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="")]
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Where the images come from."""

    dataset: Name = None
    """digits, a name in TensorFlow Datasets, folder:PATH or csv:PATH. By default as in training."""
    data_dir: Folder = None
    """Folder of the prepared data sets. By default ~/tensorflow_datasets."""
    skip_bad: Flag = False
    """Skip the images of your own that cannot be read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What is written."""

    quantize: Literal["none", "float16", "dynamic", "int8"] = "none"
    """For .tflite: float16, dynamic or int8. For .onnx and .xml: int8."""
    calibrate: Name = None
    """int8: calibrate on the training images of this data set. By default as in training."""
    keep_float: Text = None
    """int8: leave these layers in float: LAYER[,LAYER]. The report lists the layers by error."""
    io: Annotated[
        Literal["uint8", "int8", "float32"] | None,
        arg(metavar="{uint8,int8,float32}", help_behavior_hint=""),
    ] = None
    """int8: type of the pixels and probabilities. By default uint8: raw bytes."""
    layout: Annotated[
        Literal["nhwc", "nchw"] | None, arg(metavar="{nhwc,nchw}", help_behavior_hint="")
    ] = None
    """For .onnx and .xml: layout of the images. By default nhwc."""
    opset: Integer = None
    """For .onnx: version of the operators, 13 to 18. By default 17."""
    signatures: Annotated[
        Literal["all", "serve"] | None, arg(metavar="{all,serve}", help_behavior_hint="")
    ] = None
    """For a SavedModel: serve leaves out serve_bytes, which tensorflowjs cannot convert."""
    rgb_input: Flag = False
    """Take RGB images, and make grey ones of them in the file: for a network of grey images."""
    format: Annotated[Literal["web"] | None, arg(metavar="web", help_behavior_hint="")] = None
    """Write a folder with a page that classifies images in the browser."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """How the file is compared with the model."""

    examples: int = 256
    """Number of test images."""
    bound: Annotated[
        Number,
        arg(
            help="Largest allowed difference of an output (by default 1e-4 for float32, 5e-3 for "
            "float16), or smallest allowed fraction of images with the same top class, or of "
            "decisions with several labels per image (by default 0.99, for dynamic and int8; of "
            "features, the mean over the images of their largest difference, 0.05)."
        ),
    ] = None
    seed: int = 0
    """Random seed for choosing calibration images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsaid:
    """What the checkpoint does not tell."""

    key: Name = None
    """Entry of a training checkpoint to read, such as model_ema. By default the usual one."""
    prefix: Name = None
    """Prefix of the network to read where a file has several, such as teacher.backbone."""
    bgr: Flag = False
    """The network was trained on BGR images. The model takes RGB, and so do --mean and --std."""
    rgb: Flag = False
    """The network was trained on RGB images, though it is one of keras.applications."""
    stride_in_1x1: Flag = False
    """The network is caffe-style: blocks stride in their first 1x1 convolution."""
    dilation: Annotated[
        Literal["openmmlab", "torchvision"] | None,
        arg(metavar="{openmmlab,torchvision}", help_behavior_hint=""),
    ] = None
    """The network is dilated, in this library's way (timm's is torchvision's)."""
    output_stride: Annotated[
        Literal[8, 16, 32] | None, arg(metavar="{8,16,32}", help_behavior_hint="")
    ] = None
    """Stride of the last feature map. By default 32, or 8 with --dilation."""
    channel_padding: Annotated[
        Literal["end", "both"] | None, arg(metavar="{end,both}", help_behavior_hint="")
    ] = None
    """Where shortcuts without weights pad the channels. By default at the end."""


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function a command of the command line.

    Its parameters are the arguments, its docstring is their help. Its answer is printed as a table,
    or as one line of JSON with `--json`, which every command has.

    Args:
        function: its positional parameters are arguments by place; its keyword-only parameters, and
            the fields of parameters that are dataclasses, are options.
    """

    def bind(*positional: Any, json: bool = False, **named: Any) -> Bound:
        return functools.partial(function, *positional, **named), json

    line = "Print one line of JSON to stdout, and everything else to stderr."
    kind = Annotated[Flag, arg(help=line, help_behavior_hint="")]
    json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
    signature = inspect.signature(function)
    parameters = [
        p.replace(annotation=Annotated[p.annotation, Positional])
        if p.kind is p.POSITIONAL_OR_KEYWORD
        else p
        for p in (*signature.parameters.values(), json)
    ]
    bind.__dict__["__signature__"] = signature.replace(parameters=parameters)
    bind.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    bind.__name__, bind.__doc__ = function.__name__, function.__doc__
    VERBS[function.__name__] = bind
    return function


@verb
def summary(
    name: Annotated[str, arg(metavar="NAME")],
    *,
    classes: Integer = None,
    input_size: Integer = None,
) -> dict[str, Any]:
    """Count the parameters and multiply-adds of a network.

    Args:
        name: Name of the network, such as resnet50.
        classes: Number of classes. By default that of the published network.
        input_size: Height and width of the image. By default those of the published network.
    """
    load_tensorflow()
    from resnet_keras.models import count
    from resnet_keras.zoo import ResNet

    shape = None if input_size is None else (input_size, input_size, 3)
    try:
        return count(ResNet(name, classes=classes, input_shape=shape))
    except ValueError as error:
        raise InputError(str(error)) from error


@verb
def zoo(
    model: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None,
) -> list[dict[str, Any]]:
    """List published weights: names that --weights, convert and evaluate take.

    Args:
        model: Name of a network, such as resnet50. By default all.
    """
    from resnet_keras.published import pretrained

    return [row.to_json() for row in pretrained(model)]


@verb
def convert(
    source: Annotated[str, arg(metavar="SOURCE")],
    out: Out,
    *,
    model: Name = None,
    classes: Integer = None,
    mean: Channels = None,
    std: Channels = None,
    backbone_only: Flag = False,
    unsaid: OmitArgPrefixes[Unsaid] = Unsaid(),  # noqa: B008
) -> dict[str, Any]:
    """Convert a checkpoint to a Keras model, or a Keras model to weights for PyTorch.

    Args:
        source: A .pth, .safetensors, .pkl, .h5, .weights.h5 or .keras file, hf://ORG/REPO, or a
            name that zoo lists.
        out: A .keras file, or a .safetensors file for PyTorch (torchvision's names).
        model: Name of the network. By default it is recognised from the file.
        classes: Number of classes. By default that of the file.
        mean: Mean of the pixels (0-255), one per channel. By default that of ImageNet or CIFAR-10.
        std: Standard deviation of the pixels, one per channel. By default likewise.
        backbone_only: Leave out the head of the file. The model ends in a feature map.
        unsaid: What the checkpoint does not tell.
    """
    load_tensorflow()
    from resnet_keras.weights import convert

    report = convert(
        source,
        out,
        model=model,
        classes=classes,
        mean=_numbers("mean", mean),
        std=_numbers("std", std),
        backbone_only=backbone_only,
        **dataclasses.asdict(unsaid),
    )
    say(report)
    return dataclasses.asdict(report)


@verb
def prepare(
    dataset: Annotated[str, arg(metavar="DATASET")],
    *,
    manual_dir: Folder = None,
    data_dir: Folder = None,
    verify: Flag = False,
) -> dict[str, Any]:
    """Check and build a data set of TensorFlow Datasets, or check your own images.

    Args:
        dataset: A name in TensorFlow Datasets, or your images, folder:PATH or csv:PATH.
        manual_dir: Folder of the downloaded archives. By default downloads/manual in --data-dir.
        data_dir: Folder of the prepared data sets. By default ~/tensorflow_datasets.
        verify: First decode every image in the archives.
    """
    load_tensorflow()
    from resnet_keras import data

    return data.prepare(dataset, manual_dir=manual_dir, data_dir=data_dir, verify=verify)


@verb
def predict(
    model_file: ModelFile,
    paths: Annotated[tuple[Path, ...], arg(metavar="PATH...", help_behavior_hint="(required)")],
    *,
    top: int = 5,
    skip_bad: Flag = False,
    out: File = None,
) -> dict[str, Any]:
    """Predict the most likely classes of images, or all of several labels.

    Args:
        model_file: A .keras, .tflite, .onnx or .xml file, or a SavedModel folder.
        paths: JPEG, PNG, GIF, BMP, WebP or TIFF files, or folders of them.
        top: Number of classes per image. Of several labels all above the threshold are given.
        skip_bad: Skip the images that cannot be read.
        out: Also write a CSV file with the columns path, rank, label and score.
    """
    if not paths:
        raise InputError("missing: PATH. See --help.")
    if out is not None and out.suffix != ".csv":
        raise InputError(f"`out` must end in .csv. Received: out={str(out)!r}")
    load_tensorflow()
    from resnet_keras.evaluation import predict

    answer = predict(model_file, paths, top=top, skip_bad=skip_bad)
    if out is not None:
        _write_predictions(out, answer)
    return {item["path"]: item["predictions"] for item in answer}


@verb
def evaluate(
    model_file: ModelFile,
    *,
    images: OmitArgPrefixes[Images] = Images(),  # noqa: B008
    split: Name = None,
    batch_size: Integer = None,
    save: File = None,
    calibrate_on: Name = None,
) -> dict[str, Any]:
    """Measure accuracy and calibration on every image of a split.

    Args:
        model_file: A .keras, .tflite, .onnx or .xml file, or a SavedModel folder.
        images: Where the images come from.
        split: test, train, val, all, or a part such as test[:50%]. By default test, or all images
            of a folder without splits.
        batch_size: Images per batch. By default as many as suit the machine.
        save: Write the scores of every image to this .npz file.
        calibrate_on: Also fit a temperature, on this split. It must not have been trained on.
    """
    load_tensorflow()
    from resnet_keras.evaluation import evaluate

    return evaluate(
        model_file,
        split=split,
        **dataclasses.asdict(images),
        batch_size=batch_size,
        save=save,
        calibrate_on=calibrate_on,
    )


@verb
def export(
    model_file: ModelFile,
    out: Out,
    *,
    output: OmitArgPrefixes[Output] = Output(),  # noqa: B008
    images: OmitArgPrefixes[Images] = Images(),  # noqa: B008
    proof: OmitArgPrefixes[Proof] = Proof(),  # noqa: B008
) -> dict[str, Any]:
    """Export a Keras model, and compare the file with it on real test images.

    Args:
        model_file: A .keras file.
        out: A .tflite, .onnx, .xml (OpenVINO) or .keras file. Without: a SavedModel folder.
        output: What is written.
        images: Where the test images come from.
        proof: How the file is compared with the model.
    """
    load_tensorflow()
    from resnet_keras.exporting import BoundMissed, export

    keep_float = output.keep_float.split(",") if output.keep_float else ()
    try:
        return export(
            model_file,
            out,
            **dataclasses.asdict(output) | {"keep_float": keep_float},
            **dataclasses.asdict(images),
            **dataclasses.asdict(proof),
        )
    except BoundMissed as missed:
        say(f"error: {missed}")
        raise SystemExit(1) from None


@verb
def report(
    runs: Annotated[tuple[Path, ...], arg(metavar="RUN...", help_behavior_hint="(required)")],
    *,
    out: File = None,
    data_dir: Folder = None,
) -> dict[str, Any]:
    """Write an HTML report on one or more runs: curves, mistakes, calibration.

    Args:
        runs: Run folders. Several runs are compared, and folds averaged.
        out: The HTML file. By default report.html in the first run folder.
        data_dir: Folder of the prepared data sets. By default ~/tensorflow_datasets.
    """
    load_tensorflow()
    from resnet_keras.report import over_folds, read_run, write_report

    page = write_report(runs, out=out, data_dir=data_dir)
    answer = {"report": str(page), "bytes": page.stat().st_size}
    folds = over_folds([read_run(run) for run in runs])
    return answer if folds is None else answer | {"cross_validation": folds}


@verb
def doctor() -> dict[str, Any]:
    """Describe this machine: versions, devices, and the precision that `auto` chooses."""
    load_tensorflow()
    from resnet_keras.training.machine import describe

    return describe()


def main(arguments: list[str] | None = None) -> None:
    """Run a command: its result goes to stdout, and everything else to stderr.

    Args:
        arguments: of the command line; by default those of this process.
    """
    exit_with_one_line()
    arguments = sys.argv[1:] if arguments is None else arguments
    stdout = text_to(os.dup(1), cast(io.TextIOWrapper, sys.stdout))
    if arguments == ["--version"]:
        print(__version__, file=stdout, flush=True)
        return
    if arguments[:1] == ["run"]:  # a program of its own, with its own arguments
        return _run(arguments[1:])
    call, as_json = _bound(arguments)
    os.dup2(2, 1)  # libraries print on stdout, too, some of them from C++
    with stopping("Run the same command again."):
        answer = call()
    if as_json:
        print(json_format.dumps(answer), file=stdout, flush=True)
    else:
        _show(answer, stdout)


def _run(arguments: list[str]) -> None:
    """Run a recipe, as `python -m resnet_keras.recipes.NAME` does; without a name, list them."""
    recipes = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.py"))}
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(f"usage: {PROGRAM} run RECIPE [OPTIONS]\n")
        print("RECIPE --help lists its options. Recipes:\n")
        for recipe, path in recipes.items():
            claim = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            print(f"{recipe}\n    {claim.splitlines()[0]}")
        return
    if name not in recipes:
        raise InputError(
            f"unknown recipe{did_you_mean(name, list(recipes))}. See {PROGRAM} run --help. "
            f"Received: {name}"
        )
    sys.argv = [str(recipes[name]), *arguments[1:]]
    runpy.run_module(f"resnet_keras.recipes.{name}", run_name="__main__", alter_sys=True)


def _bound(arguments: list[str]) -> Bound:
    """Find the command, and bind it to its arguments."""
    name = arguments[0] if arguments else None
    if name in VERBS:
        command, rest = VERBS[name], arguments[1:]
        return parsed(lambda: tyro.cli(command, prog=f"{PROGRAM} {name}", args=rest), command, rest)
    if name is None:
        raise InputError(f"missing: a command ({', '.join(VERBS)}). See --help.")
    if name in ("-h", "--help") or name.startswith("--tyro-"):  # completion of shells
        tyro.extras.subcommand_cli_from_dict(
            VERBS, prog=PROGRAM, description=__doc__, args=arguments
        )
    raise InputError(f"unknown command {name}{did_you_mean(name, list(VERBS))}. See --help.")


def _numbers(field: str, text: str | None) -> list[float] | None:
    """Read numbers that are separated by commas: `123.7,116.3,103.5`."""
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"`{field}` must be numbers: R,G,B. Received: {field}={text!r}") from None


def _write_predictions(path: Path, answer: list[dict[str, Any]]) -> None:
    """Write predictions as CSV: a row for each image and class, the most likely class first.

    An image with none of the labels has a row, too, whose other cells are empty.
    """
    from resnet_keras.files import whole

    with (
        whole(path) as part,
        open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("path", "rank", "label", "score"))
        for item in answer:
            for rank, best in enumerate(item["predictions"], start=1):
                writer.writerow((item["path"], rank, best["label"], best["score"]))
            if not item["predictions"]:
                writer.writerow((item["path"], "", "", ""))


def _show(answer: Any, stdout: TextIO) -> None:
    """Print an answer as a table; what is in it controls no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(value: object) -> Text:
        return Text("\n".join(printable(line) for line in str(value).split("\n")))

    if isinstance(answer, list):  # of rows
        columns = [key for key in (answer[0] if answer else ()) if key not in _JSON_ONLY]
        table = Table(*columns)
        for row in answer:
            table.add_row(*(text(_readable(key, row[key])) for key in columns))
    else:
        table = Table(show_header=False)
        for key, value in answer.items():
            if value is None and key in _ONE_CLASS and answer.get("map") is not None:
                continue
            title = "hardest classes" if key == "per_class" else key
            if key in ("confusion", "f1_per_class"):
                continue  # the report draws them
            table.add_row(text(title), text(_readable(key, value)))
    Console(file=stdout).print(table)


# None where images have several labels.
_ONE_CLASS = ("top1", "top5", "top1_agreement", "top1_source", "balanced_accuracy", "ece", "nll")

# Of published weights.
_JSON_ONLY = ("model", "classes", "url", "sha256", "md5", "preprocessing", "note")


def _readable(key: str, value: Any) -> str:
    """Write a value of an answer for people."""
    if value is None and key in ("licence", "top1", "top5"):
        return "-"
    if key == "per_class":
        return _hardest(value)
    if key == "layers":  # of an int8 file
        return "\n".join(f"{item['error']:8.3g}  {item['layer']}" for item in value[:5])
    if value == []:  # of an image with several labels, or none
        return "none"
    if isinstance(value, list) and value and isinstance(value[0], dict):  # of an image
        return "\n".join(f"{100 * item['score']:6.2f} %  {item['label']}" for item in value)
    if isinstance(value, tuple):  # names of tensors
        return f"{len(value)} tensors"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _hardest(classes: dict[str, float | None], most: int = 5) -> str:
    """Name the classes with the lowest top-1 or average precision."""
    seen = sorted((share, name) for name, share in classes.items() if share is not None)
    return "\n".join(f"{100 * share:6.2f} %  {name}" for share, name in seen[:most])


if __name__ == "__main__":
    main()
