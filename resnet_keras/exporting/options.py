"""The options of `export`: what they are, and which of them a format takes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from resnet_keras.data import Split
from resnet_keras.errors import InputError
from resnet_keras.exporting import web
from resnet_keras.model_files import formats
from resnet_keras.model_files.formats import KERAS, Format, Option, all_described, format_named


class Options(TypedDict, total=False):
    """How a model is exported; each is optional.

    Attributes:
        format: "web": OUT becomes a static page that classifies images in the browser with an ONNX
            file, which is what is proved. None: the suffix of OUT says what is written.
        quantize: "none"; "float16"; "dynamic" (int8 weights) or "int8" (weights and activations),
            as far as the format has it.
        calibrate: for int8, the data set whose training images give the ranges of activations, or
            an opened split; by default what the model was trained on, and none where it was
            fine-tuned for int8 (`Recipe.quantize`) and so has its ranges.
        io: for int8, the type of the pixels, and in `.tflite` of the probabilities: "uint8" (the
            default; pixels are raw bytes), "int8" (`.tflite`) or "float32".
        keep_float: for int8, names of layers that are not quantized; the report lists all layers
            by their error.
        layout: of `.onnx` and `.xml`: "nhwc" (the default) or "nchw".
        opset: of `.onnx`, 13 to 18; by default 17.
        signatures: of a SavedModel: "all" (the default), or "serve", which leaves out
            `serve_bytes`: tensorflowjs and coremltools cannot convert its table of labels.
        rgb_input: the file of a network of grey images takes RGB images and makes grey ones of
            them itself, for programs that have no others, such as MediaPipe. Not for `.keras`.
    """

    format: Literal["web"] | None
    quantize: str
    calibrate: str | Split | None
    io: str | None
    keep_float: Sequence[str]
    layout: str | None
    opset: int | None
    signatures: str | None
    rgb_input: bool


# Options that say how a file becomes int8, whatever its format.
_INT8 = ("io", "calibrate", "keep_float")


@dataclasses.dataclass(frozen=True)
class Settings:
    """`Options` that go together, with the defaults of the format.

    Attributes:
        format: of the file.
        page: whether the file goes into a static page.
        quantize: as of `Options`, and so are the next ones.
        calibrate: of int8.
        io: of int8; else None.
        keep_float: of int8; else empty.
        layout: None where the format has one layout.
        opset: None where the format has none.
        signatures: None where the format has none.
        rgb_input: as of `Options`; None where the format has no such files.
    """

    format: Format
    page: bool
    quantize: str
    calibrate: str | Split | None
    io: str | None
    keep_float: tuple[str, ...]
    layout: str | None
    opset: int | None
    signatures: str | None
    rgb_input: bool | None

    @property
    def precision(self) -> str:
        """What the weights become, for people."""
        return self.quantize.replace("none", "float32")

    def described(self) -> dict[str, Any]:
        """Return the part of them that stands in a report."""
        names = ("quantize", "io", "keep_float", "layout", "opset", "signatures", "rgb_input")
        return {name: getattr(self, name) for name in names} | {"keep_float": list(self.keep_float)}

    def writing(self) -> dict[str, Any]:
        """Return what the format's `write` takes, but for the calibration images."""
        names = [name for name in self.format.options if getattr(self, name) is not None]
        names = [name for name in names if name != "rgb_input"]  # the network itself has it
        if len(self.format.quantize) > 1:
            names.append("quantize")
        if self.quantize == "int8":
            names.append("keep_float")
        return {name: getattr(self, name) for name in names}

    def in_float32(self) -> "Settings":
        """Return the same without quantization."""
        return dataclasses.replace(self, quantize="none", calibrate=None, io=None, keep_float=())


def settle(source: Path, out: Path, options: Options) -> Settings:
    """Check options against the format of OUT, and fill in its defaults.

    Raises:
        InputError: a format that is not known, or options that do not go together.
    """
    if unknown := sorted(set(options) - set(Options.__annotations__)):
        raise TypeError(f"export() got an unexpected keyword argument {unknown[0]!r}")
    page = options.get("format")
    if page not in (None, "web"):
        raise InputError(f"`format` must be None or 'web'. Received: format={page!r}")
    if format_named(source) is not KERAS:
        raise InputError(f"`export` starts from {KERAS.described}. Received: {source}")
    row = web.FORMAT if page else format_named(out)
    if row is None:
        raise InputError(f"OUT must be {all_described()}. Received: {out}")
    quantize = options.get("quantize", "none")
    if quantize not in row.quantize:
        raise InputError(
            f"`quantize` of {row.described} must be {_spoken(row.quantize)}. "
            f"Received: quantize={quantize!r}"
        )
    for name in _INT8:
        if options.get(name) and quantize != "int8":
            raise InputError(f"`{name}` is for int8 only. Received: {name}={options.get(name)!r}")
    values = {name: _value(name, options.get(name), row, quantize) for name in _choices()}
    return Settings(
        format=row,
        page=bool(page),
        quantize=quantize,
        calibrate=options.get("calibrate"),
        keep_float=tuple(options.get("keep_float") or ()),
        **values,
    )


def _choices() -> list[str]:
    """Name the options that some formats take and others do not."""
    return list(dict.fromkeys(name for row in formats.FORMATS for name in row.options))


def _value(name: str, value: Any, row: Format, quantize: str) -> Any:
    """Return the value of an option, or the format's default; None where it does not apply."""
    option: Option | None = row.options.get(name)
    if option is None:
        if value is not None and value is not False:  # False: a flag that was not given
            takers = [other.described for other in formats.FORMATS if name in other.options]
            raise InputError(f"`{name}` is for {_spoken(takers)} only. Received: {name}={value!r}")
        return None
    if value is None:
        return None if name in _INT8 and quantize != "int8" else option.default
    if value not in option.values:
        raise InputError(
            f"`{name}` of {row.described} must be {_spoken(option.values)}. "
            f"Received: {name}={value!r}"
        )
    return value


def _spoken(values: Sequence[Any]) -> str:
    """Write values in a sentence: `a, b or c`; a range by its ends."""
    if isinstance(values, range):
        return f"{values[0]} to {values[-1]}"
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
