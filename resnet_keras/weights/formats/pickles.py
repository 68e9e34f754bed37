"""The pickles of PyTorch's and NumPy's users, interpreted without running what is in them.

A pickle is a program, and Python's own unpickler imports and calls whatever the program names.
Here `pickletools` parses the opcodes and `unpickle` interprets them: it imports nothing, calls
only the builders below, and refuses the file at the first global that is on neither list.
"""

import contextlib
import math
import pickletools
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from resnet_keras.weights.formats.refused import Refused

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "UntypedStorage": np.dtype(np.uint8),
}

# A ResNet of 600 blocks with its optimizer takes about 500,000. An opcode of one byte can allocate
# 64 bytes.
_MOST_OPCODES = 4_000_000

_MOST_AXES = 64  # the most that NumPy allows

_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"

# Enumerations, whose members are pickled as a class and a value, or as an attribute of the class.
_ENUMS = (
    "torchvision.transforms.functional.InterpolationMode",
    "pytorch_lightning.trainer.states.TrainerFn",
    "pytorch_lightning.trainer.states.TrainerStatus",
    "lightning.pytorch.trainer.states.TrainerFn",
    "lightning.pytorch.trainer.states.TrainerStatus",
    "transformers.trainer_utils.IntervalStrategy",
    "transformers.trainer_utils.SchedulerType",
    "transformers.training_args.OptimizerNames",
    "accelerate.utils.dataclasses.DistributedType",
)

# What training scripts put beside the state dict. None of it is needed, so none of it is built.
_STAND_INS = frozenset(
    [
        *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
        "numpy.ndarray",  # only ever named, for `_reconstruct`
        *(f"datetime.{n}" for n in ("datetime", "date", "time", "timedelta", "timezone")),
        _HISTORY,
        *(f"{_HISTORY}.{n}" for n in ("min", "max", "mean", "current")),
        "torch.device",
        *(f"torch.{n}" for n in "float64 float32 float16 bfloat16 int64 int32 int16 int8".split()),
        *(f"torch.{n}" for n in "uint8 bool strided contiguous_format channels_last".split()),
        "torch.torch_version.TorchVersion",
        "argparse.Namespace",  # torchvision's references/ and timm save their flags
        "collections.Counter",  # the milestones of a learning-rate schedule
        *(f"builtins.{n}" for n in "slice range complex int float str bool tuple".split()),
        # As which protocol 2, that of torch.save, writes range, int and str: Python 2's names.
        *(f"builtins.{n}" for n in ("xrange", "long", "unicode")),
        *(
            f"{module}.{n}Path"
            for module in ("pathlib", "pathlib._local")
            for n in ("", "Posix", "Windows", "PurePosix", "PureWindows")
        ),
        *(f"omegaconf.{n}" for n in "dictconfig.DictConfig listconfig.ListConfig".split()),
        *(f"omegaconf.base.{n}" for n in ("Metadata", "ContainerMetadata")),
        *(f"omegaconf.nodes.{n}Node" for n in "Any String Integer Float Boolean Enum".split()),
        *(f"omegaconf.nodes.{n}Node" for n in ("Bytes", "Path", "Interpolation")),
        *(f"typing.{n}" for n in "Any Dict List Union Optional Tuple".split()),
        *_ENUMS,
        # What Lightning and OpenMMLab keep flags in.
        *(
            f"{package}.utilities.parsing.AttributeDict"
            for package in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")
        ),
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
        "mmengine.config.config.ConfigDict",
        "mmcv.utils.config.ConfigDict",
        "easydict.EasyDict",
        "yacs.config.CfgNode",
    ]
)

# Names in pickles that are no state dicts, and say what they are.
_QUANTIZED = re.compile(r"_rebuild_qtensor|\.Q(U?Int8|Int32|UInt4x2|UInt2x4)Storage|quantiz|qint")
_MODULES = re.compile(
    r"(torch\.nn\.modules|torchvision\.models|timm\.models|__main__)\.\w|models?\."
)


class _StandIn(NamedTuple):
    """Takes the place of a harmless object; calls, items and states sent to it are dropped."""

    name: str


@dataclass
class Storage:
    """A run of `numel` values in the file; `data` is their bytes, once they are found."""

    dtype: np.dtype
    numel: int
    data: np.ndarray | None = None


# From the key, dtype and number of values of a storage to the storage.
FindStorage = Callable[[str, np.dtype, int], Storage]


class Tensor(NamedTuple):
    """A tensor as the pickle describes it: a window on a storage, counted in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The values, of the file's type and strides, still in the file.

        Raises:
            Refused: the window is not inside its storage.
        """
        dtype, size = self.storage.dtype, self.storage.dtype.itemsize
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        with contextlib.suppress(ValueError):  # NumPy has a limit of axes, and of values
            if 0 in self.shape:
                return np.zeros(self.shape, dtype)
            if self.offset + last < self.storage.numel:
                strides = [size * step for step in self.strides]
                return np.ndarray(self.shape, dtype, self.storage.data, size * self.offset, strides)
        raise Refused(
            f"has a tensor outside of its storage. Received: offset={self.offset}, "
            f"shape={self.shape}, strides={self.strides} in {self.storage.numel} values"
        )


@dataclass
class Dtype:
    """`numpy.dtype` as a pickle describes it: a code, as `f4`, and then a byte order."""

    code: str
    order: str = "<"

    def set_state(self, state: object) -> None:
        """Take what NumPy saved: a version, the byte order, and what no number has."""
        match state:
            case (int(), str() as order, *_):
                self.order = ">" if order == ">" else "<"

    def dtype(self) -> np.dtype | None:
        """The type; None for what no weights have."""
        known = re.fullmatch("[fiu][1248]|b1", self.code) and self.code != "f1"
        return np.dtype(f"{self.order}{self.code}") if known else None


class Latin1(NamedTuple):
    """Bytes that a pickle writes as a text; encoding copies them, so that is left for later."""

    text: str


@dataclass
class Array:
    """A NumPy array as a pickle describes it; its bytes stay what they are until `array`."""

    shape: tuple[int, ...] = ()
    kind: Dtype | None = None
    fortran: bool = False
    data: bytes | bytearray | str = b""

    def set_state(self, state: object) -> None:
        """Take what NumPy saved; what an array of objects has instead is dropped."""
        match state:
            case (int(), tuple() as shape, Dtype() as kind, int() as fortran, data):
                data = data.text if isinstance(data, Latin1) else data
                if isinstance(data, bytes | bytearray | str):  # Python 2 wrote bytes as a text
                    self.shape, self.kind, self.data = shape, kind, data
                    self.fortran = bool(fortran)

    def array(self) -> np.ndarray:
        """The values.

        Raises:
            Refused: they are no numbers, or not as many as the shape says.
        """
        dtype = self.kind.dtype() if self.kind else None
        if dtype is None:
            kind = self.kind.code if self.kind else None
            raise Refused(f"has an array of something other than numbers. Received: {kind!r}")
        fits = len(self.shape) <= _MOST_AXES and all(type(n) is int and n >= 0 for n in self.shape)
        if not fits or math.prod(self.shape) * dtype.itemsize != len(self.data):
            raise Refused(
                f"has an array of another size than its shape. Received: {dtype} of shape "
                f"{self.shape} in {len(self.data)} bytes"
            )
        data = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
        values = np.frombuffer(data, dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return values.astype(dtype.newbyteorder("="), copy=False)


def unpickle(stream: Any, storage: FindStorage | None) -> object:
    """Interpret one pickle of `stream` and stop behind it.

    `storage(key, dtype, numel)` resolves the persistent ids; None where there may be none.
    """
    machine = _Machine(storage)
    for count, (op, arg, _) in enumerate(pickletools.genops(stream)):
        if count == _MOST_OPCODES:
            raise Refused(f"has a pickle larger than any checkpoint's. Received: {count:,} opcodes")
        if op.name == "STOP":
            return machine.stack.pop()
        if not (machine.move(op.name, arg) or machine.make(op.name, arg)):
            raise Refused(f"has a pickle opcode that torch.save never writes. Received: {op.name}")
    raise EOFError("a pickle without an end")  # not reached: genops raises before


class _Machine:
    """The stack machine that a pickle is a program of."""

    def __init__(self, storage: FindStorage | None):
        self.storage = storage
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def since_mark(self) -> list:
        """Take what lies on the stack above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def move(self, name: str, arg: Any) -> bool:
        """Obey an opcode about the stack and the memo, or a constant; False if it is neither."""
        stack, marks, memo = self.stack, self.marks, self.memo
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case "POP" if marks and marks[-1] == len(stack):
                marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case name if name in _SCALARS:
                stack.append(arg)
            case _:
                return False
        return True

    def make(self, name: str, arg: Any) -> bool:
        """Obey an opcode that makes or fills an object; False if it is none."""
        stack = self.stack
        match name:
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "LIST" | "FROZENSET":
                stack.append(self.since_mark())
            case "DICT":
                items = self.since_mark()
                stack.append({})
                _set_items(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                _append(stack[-1], [item])
            case "APPENDS" | "ADDITEMS":
                items = self.since_mark()
                _append(stack[-1], items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                _set_items(stack[-1], items)
            case "SETITEMS":
                items = self.since_mark()
                _set_items(stack[-1], items)
            case "GLOBAL":
                stack.append(_find(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                found, module = stack.pop(), stack.pop()
                stack.append(_find(module, found))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                if name == "NEWOBJ_EX":
                    stack.pop()  # keywords: no builder has any
                arguments = stack.pop()
                stack.append(_call(stack.pop(), arguments))
            case "OBJ":
                function, *parts = self.since_mark()
                stack.append(_call(function, tuple(parts)))
            case "INST":
                function = _find(*arg.split(" ", 1))
                stack.append(_call(function, tuple(self.since_mark())))
            case "BUILD":
                # Dropped: that of a stand-in, of an OrderedDict (`_metadata`) or of a Parameter.
                state = stack.pop()
                if isinstance(stack[-1], Array | Dtype):
                    stack[-1].set_state(state)
            case "BINPERSID":
                stack.append(_persistent(stack.pop(), self.storage))
            case _:
                return False
        return True


_SCALARS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)


def _find(module: str, name: str) -> object:
    """What stands for a global: a builder of this file, a storage's dtype, or a stand-in."""
    if type(module) is not str or type(name) is not str:
        raise TypeError("a global without a name")
    if module == "__builtin__":  # Python 2's name, which pickles up to protocol 2 use
        module = "builtins"
    full = f"{module}.{name}"
    if full in _BUILDERS:
        return _BUILDERS[full]
    if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
        return _STORAGES[name]
    if full in _STAND_INS:
        return _StandIn(full)
    raise _refusal(full)


def _refusal(name: str) -> Refused:
    what = "names something that no state dict needs"
    how = "(if you trust it: torch.save(model.state_dict(), ...) in PyTorch)"
    if _QUANTIZED.search(name):
        what, how = "is of a quantized network", "(give the one that it was made from)"
    elif "sparse" in name:
        what, how = "has sparse tensors", "(in PyTorch, save tensor.to_dense())"
    elif _MODULES.match(name):
        what = "is a whole module pickled, not a state dict"
    return Refused(f"{what}, so it was refused and nothing in it was run {how}. Received: {name!r}")


def _call(function: object, arguments: object) -> object:
    if isinstance(function, _StandIn):
        return function
    # Only `_find` puts functions on the stack, so this is one of the builders.
    if not isinstance(function, types.FunctionType) or type(arguments) is not tuple:
        raise TypeError(f"a call of a {type(function).__name__}")
    return function(*arguments)


def _persistent(pid: object, storage: FindStorage | None) -> Storage:
    """Check a persistent id: `("storage", type, key, device, numel)`, legacy with a None behind."""
    match pid:
        case ("storage", np.dtype() as dtype, str() as key, _, int() as numel, *rest) if (
            storage is not None and numel >= 0 and rest in ([], [None])
        ):
            return storage(key, dtype, numel)
    raise Refused(f"has a persistent id that is not a storage. Received: a {type(pid).__name__}")


def _append(target: object, items: list) -> None:
    if not isinstance(target, _StandIn):
        if type(target) is not list:
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(items)


def _set_items(target: object, items: list) -> None:
    if not isinstance(target, _StandIn):
        if type(target) is not dict or len(items) % 2:
            raise TypeError(f"items for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # No nested tuples: hashing one that is a million levels deep ends Python.
            parts = key if type(key) is tuple else (key,)
            if not all(isinstance(p, str | int | float | bytes | _StandIn | None) for p in parts):
                raise TypeError(f"a dict key of type {type(key).__name__}")
            target[key] = value


def _tensor(storage, offset, shape, strides, *rest) -> Tensor:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2; `rest` is about gradients."""
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise TypeError("a tensor of impossible shape, strides or storage")
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(
        type(n) is int and 0 <= n < 2**48 for n in numbers
    ):
        raise TypeError("a tensor of impossible shape, strides or storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data, *rest) -> Tensor:
    """torch.nn.Parameter: its tensor."""
    if not isinstance(data, Tensor):
        raise TypeError("a parameter without a tensor")
    return data


def _from_type(function, kind, arguments, state) -> object:
    """torch._tensor._rebuild_from_type_v2: a tensor that has attributes."""
    return _call(function, arguments)


def _array(*rest) -> Array:
    """numpy.core.multiarray._reconstruct: an array whose state follows."""
    return Array()


def _array_of(data, kind, shape, order="C") -> Array:
    """numpy.core.numeric._frombuffer: an array of protocol 5."""
    array = Array()
    array.set_state((1, shape, kind, order == "F", data))
    return array


def _dtype(code, *rest) -> Dtype:
    """numpy.dtype: a code; its byte order follows as a state."""
    return Dtype(code if isinstance(code, str) else "")


def _encode(text, encoding=None) -> Latin1 | _StandIn:
    """_codecs.encode, as which Python's protocol 2 writes bytes."""
    if type(text) is str and encoding == "latin1":
        return Latin1(text)
    return _StandIn("_codecs.encode")


def _no_bytes() -> Latin1:
    """bytes(), as which Python's protocol 2 writes no bytes at all."""
    return Latin1("")


# A pickle can name one long list a million times, so no builder copies what it is given.


def _mapping(items=None) -> dict:
    """collections.OrderedDict and dict: the pairs are moved out of their list."""
    mapping: dict = {}
    if items is not None:
        if type(items) is not list:
            raise TypeError(f"a dict of a {type(items).__name__}")
        _set_items(mapping, [part for key, value in items for part in (key, value)])
        items.clear()
    return mapping


def _default_mapping(*rest) -> dict:
    return {}


def _sequence(items=None) -> list | tuple:
    if type(items) not in (list, tuple, type(None)):
        raise TypeError(f"a sequence of a {type(items).__name__}")
    return [] if items is None else items


def _attribute(owner, name) -> _StandIn:
    """`getattr`, only for mmengine's HistoryBuffer, which saves its methods, and enumerations."""
    if not isinstance(owner, _StandIn) or owner.name not in (_HISTORY, *_ENUMS):
        raise _refusal("builtins.getattr")
    return owner


_BUILDERS = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_of for core in ("core", "_core")},
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "builtins.bytes": _no_bytes,
    "torch.Size": _sequence,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _default_mapping,
    "builtins.dict": _mapping,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "builtins.getattr": _attribute,
}
