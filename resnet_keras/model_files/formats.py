"""The formats of model files: one row of `FORMATS` for each, and one module that knows the rest.

To add a format, add its row here and a module with what `FormatModule` lists. Nothing else in the
package names a format: opening, export, its proof, latency and the model card read these rows. A
module is imported when its format is first used, so that a `.tflite` file opens without ONNX.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import keras

from resnet_keras.clones import Rescaling
from resnet_keras.errors import InputError
from resnet_keras.model_files.metadata import Metadata
from resnet_keras.model_files.opened import Opened, reason


class Option(NamedTuple):
    """The values that an option of `export` may have for a format, and its default."""

    values: Sequence[Any]
    default: Any


class FormatModule(Protocol):
    """What the module of a format offers."""

    SNIPPET: str
    """Python that opens the file `{name}` and turns `pixels` into `scores`: the model card's."""

    def open_file(self, path: Path, *, threads: int, folded: bool) -> Opened:
        """Open a file; its arguments are those of `open_model_file`."""

    def write(
        self, model: keras.Model, path: Path, metadata: Metadata, **options: Any
    ) -> dict[str, float]:
        """Write a model, as `folded` gives it.

        Args:
            model: the network, from pixels to probabilities.
            path: the file or folder.
            metadata: what travels inside, where the format has a place for it.
            **options: those of the row but for `rgb_input`, and `quantize` where it has a choice;
                for int8 also `images`, the calibration images, and `keep_float`.

        Returns:
            For int8, the error of each layer: see `LayerErrors`; else nothing.
        """

    def operators(self, path: Path) -> dict[str, int] | None:
        """Count the operators of a file by name; None where the format has none."""

    def unwelcome(self, operators: Mapping[str, int], layout: str | None) -> list[str]:
        """Name the operators that not every runtime has, or that folding was to remove."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of model files.

    Attributes:
        name: as its makers write it.
        suffix: of its files; empty for a folder without one.
        module_name: of its module, relative to this package.
        library: that opens it, by the name that Hugging Face's model cards have for it.
        quantize: what it can be quantized to, "none" first.
        options: of `export` that it takes, beside those that every int8 file has.
        keeps_batch_norm: whether a file has Keras' layers as they are, rather than a graph in which
            batch norms are folded into convolutions.
        rescaling: what `write` wants in place of a `Rescaling`, as of `clones.fold`.
        integer_scores: whether the scores of an int8 file have the type `io`, as its pixels do.
        takes_ranges: whether int8 can use the ranges that quantization-aware training has found.
        fixed_size: whether its files take images of one size, whatever the model takes.
        threads: whether the threads of its interpreter can be chosen.
        marker: for a folder, the file in it that tells it from any other folder.
        companions: suffixes of further files that a file consists of, such as its weights.
        extra: of this project, that installs what it needs.
    """

    name: str
    suffix: str
    module_name: str
    library: str
    quantize: tuple[str, ...] = ("none",)
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    keeps_batch_norm: bool = False
    rescaling: Rescaling = "layer"
    integer_scores: bool = False
    takes_ranges: bool = False
    fixed_size: bool = False
    threads: bool = False
    marker: str | None = None
    companions: tuple[str, ...] = ()
    extra: str = "export"

    @property
    def module(self) -> FormatModule:
        """The module of the format.

        Raises:
            InputError: a library that it needs is not installed.
        """
        try:
            return cast(FormatModule, importlib.import_module(self.module_name, __package__))
        except ModuleNotFoundError as error:
            raise InputError(
                f"{self.name} files need more packages: pip install 'resnet-keras[{self.extra}]'. "
                f"Received: {error}"
            ) from error

    @property
    def described(self) -> str:
        """A file of the format in a sentence: `a .onnx file`, `a SavedModel folder`."""
        return f"a {self.name} folder" if self.marker else f"a {self.suffix} file"

    def open(self, path: Path, *, threads: int, folded: bool) -> Opened:
        """Open a file of this format; the arguments are those of `open_model_file`.

        Raises:
            InputError: it cannot be read as one, or one of its companions is missing.
        """
        for file in self.files(path):
            if not file.exists():
                raise InputError(
                    f"{path} cannot be read without the file beside it. Received: no {file.name}"
                )
        try:
            opened = self.module.open_file(path, threads=threads, folded=folded)
        except InputError:
            raise
        except Exception as error:  # there is no end to what damage does to the parsers
            raise InputError(f"{path} can't be read as a model: {reason(error)}") from error
        return opened._replace(classes=opened.classes if isinstance(opened.classes, int) else None)

    def files(self, path: Path) -> list[Path]:
        """List all files of a model file: itself and its companions, or those in the folder."""
        if path.is_dir():
            return [file for file in path.rglob("*") if file.is_file()]
        return [path, *(path.with_suffix(suffix) for suffix in self.companions)]


# Whether the file of a network of grey images takes RGB; it is about the network, not for `write`.
_RGB_INPUT = Option((False, True), False)

KERAS = Format("Keras", ".keras", ".keras", library="keras", keeps_batch_norm=True)
TFLITE = Format(
    "TFLite",
    ".tflite",
    ".tflite",
    library="litert",
    quantize=("none", "float16", "dynamic", "int8"),
    rescaling="convolution",
    options={"io": Option(("uint8", "int8", "float32"), "uint8"), "rgb_input": _RGB_INPUT},
    integer_scores=True,
    takes_ranges=True,
    fixed_size=True,
    threads=True,
)
ONNX = Format(
    "ONNX",
    ".onnx",
    ".onnx",
    library="onnx",
    quantize=("none", "int8"),
    options={
        "io": Option(("uint8", "float32"), "uint8"),
        "layout": Option(("nhwc", "nchw"), "nhwc"),
        # What tf2onnx and the operators used here can be written in; QDQ per channel needs 13.
        "opset": Option(range(13, 19), 17),
        "rgb_input": _RGB_INPUT,
    },
    threads=True,
)
SAVED_MODEL = Format(
    "SavedModel",
    "",
    ".saved_model",
    library="tensorflow",
    options={"signatures": Option(("all", "serve"), "all"), "rgb_input": _RGB_INPUT},
    rescaling="rows",
    marker="saved_model.pb",
)
OPENVINO = Format(
    "OpenVINO",
    ".xml",
    ".openvino",
    library="openvino",
    quantize=("none", "int8"),
    options={
        "io": Option(("uint8", "float32"), "uint8"),
        "layout": Option(("nhwc", "nchw"), "nhwc"),
        "rgb_input": _RGB_INPUT,
    },
    threads=True,
    companions=(".bin",),
    extra="openvino",
)

FORMATS: tuple[Format, ...] = (KERAS, TFLITE, ONNX, OPENVINO, SAVED_MODEL)


def format_named(path: str | Path) -> Format | None:
    """Return the format that a path's suffix stands for, whether there is a file or not."""
    suffix = Path(path).suffix
    return next((row for row in FORMATS if row.suffix == suffix), None)


def format_of(path: Path) -> Format:
    """Return the format of a model file that exists.

    Raises:
        InputError: it is not a model file, by its name or what a folder contains.
    """
    row = format_named(path)
    if row is not None and not row.marker:
        return row
    for row in FORMATS:
        if row.marker and (path / row.marker).exists():
            return row
    raise InputError(f"a model file is {all_described()}. Received: {path}")


def all_described() -> str:
    """All formats in a sentence: `a .keras file, a .tflite file, ... or a SavedModel folder`."""
    *others, last = (row.described for row in FORMATS)
    return f"{', '.join(others)} or {last}"
