"""`.pth` files are read as data: types and layouts right, damage told in a line."""

import collections
import io
import pickle
import re
import struct
import subprocess
import zipfile

import ml_dtypes
import numpy as np
import pytest
from pth_writer import (
    MAGIC,
    Call,
    Global,
    Persistent,
    Raw,
    State,
    View,
    pickled,
    tensor,
    torch_python,
    write_legacy,
    write_zip,
)

from resnet_keras.weights.formats import pickles, read

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_every_type(tmp_path, write):
    for dtype in "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split():
        values = np.arange(12).reshape(3, 4).astype(dtype)
        write(tmp_path / "x.pth", {"w": values, "scalar": np.array(values[1, 1])})
        arrays = read(tmp_path / "x.pth").arrays
        assert arrays["w"].dtype == values.dtype and arrays["scalar"].shape == ()
        np.testing.assert_array_equal(arrays["w"], values)
        np.testing.assert_array_equal(arrays["scalar"], values[1, 1])


def test_windows_on_shared_storages(tmp_path, write):
    storage = np.arange(24, dtype=np.float32)
    views = {
        "transposed": View(storage, 0, (6, 4), (1, 6)),
        "window": View(storage, 7, (2, 3), (6, 1)),
        "expanded": View(storage, 5, (4,), (0,)),
        "empty": View(storage, 24, (0, 3), (3, 1)),
    }
    write(tmp_path / "x.pth", views)
    arrays = read(tmp_path / "x.pth").arrays
    np.testing.assert_array_equal(arrays["transposed"], storage.reshape(4, 6).T)
    np.testing.assert_array_equal(arrays["window"], [[7, 8, 9], [13, 14, 15]])
    np.testing.assert_array_equal(arrays["expanded"], [5, 5, 5, 5])
    assert arrays["empty"].shape == (0, 3)
    assert (tmp_path / "x.pth").stat().st_size < 2000  # the storage is there once


def test_big_endian(tmp_path):
    write_zip(tmp_path / "x.pth", {"w": WEIGHT.astype(">f4").view(np.float32)}, byteorder="big")
    np.testing.assert_array_equal(read(tmp_path / "x.pth").arrays["w"], WEIGHT)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema"])
def test_wrappers(tmp_path, write, wrapper):
    optimizer = {"state": {0: {"momentum_buffer": WEIGHT}}, "param_groups": [{"lr": 0.1}]}
    write(tmp_path / "x.pth", {"epoch": 3, "optimizer": optimizer, wrapper: {"w": WEIGHT}})
    assert list(read(tmp_path / "x.pth").arrays) == ["w"]


def beside_the_state_dict():
    """What OpenMMLab's hooks leave in `meta` and `message_hub`, opcode by opcode."""
    latin = Global("_codecs", "encode")
    scalar = Global("numpy.core.multiarray", "scalar")
    double = State(
        Call(Global("numpy", "dtype"), ("f8", False, True)),
        (3, "<", None, None, None, -1, -1, 0),
    )
    array = State(
        Call(
            Global("numpy.core.multiarray", "_reconstruct"),
            (Global("numpy", "ndarray"), (0,), Call(latin, ("b", "latin1"))),
        ),
        (1, (1,), double, False, Call(latin, ("\0" * 8, "latin1"))),
    )
    history = Global("mmengine.logging.history_buffer", "HistoryBuffer")
    method = Call(Global("__builtin__", "getattr"), (history, "min"))
    new = b"c" + f"{history.module}\n{history.name}\n".encode() + b")\x81"  # NEWOBJ
    return {
        "time": Call(Global("datetime", "datetime"), (Call(latin, ("\x07\xe7", "latin1")),)),
        "best": Call(scalar, (double, Call(latin, ("\0" * 8, "latin1")))),
        "hub": State(Raw(new), {"_log_history": array, "statistics_methods": {"min": method}}),
    }


def test_harmless_objects_are_read_over(tmp_path, write):
    root = {"meta": beside_the_state_dict(), "state_dict": {"w": WEIGHT}}
    write(tmp_path / "x.pth", root)
    np.testing.assert_array_equal(read(tmp_path / "x.pth").arrays["w"], WEIGHT)


# What the checkpoints of trainers hold beside their tensors, by who writes them.
NAMES = {
    "numpy": "numpy.core.multiarray.scalar numpy._core.multiarray.scalar numpy.ndarray",
    "datetime": "datetime.datetime datetime.date datetime.time datetime.timedelta "
    "datetime.timezone",
    "torch": "torch.device torch.float64 torch.float32 torch.float16 torch.bfloat16 torch.int64 "
    "torch.int32 torch.int16 torch.int8 torch.uint8 torch.bool torch.strided "
    "torch.contiguous_format torch.channels_last torch.torch_version.TorchVersion",
    "scripts": "argparse.Namespace collections.Counter easydict.EasyDict yacs.config.CfgNode",
    "builtins": "builtins.slice builtins.range builtins.complex builtins.int builtins.float "
    "builtins.str builtins.bool builtins.tuple __builtin__.slice",
    "pathlib": "pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePosixPath "
    "pathlib.PureWindowsPath pathlib._local.PosixPath pathlib._local.WindowsPath",
    "omegaconf": "omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig "
    "omegaconf.base.Metadata omegaconf.base.ContainerMetadata omegaconf.nodes.AnyNode "
    "omegaconf.nodes.StringNode omegaconf.nodes.IntegerNode omegaconf.nodes.FloatNode "
    "omegaconf.nodes.BooleanNode omegaconf.nodes.EnumNode omegaconf.nodes.BytesNode "
    "omegaconf.nodes.PathNode omegaconf.nodes.InterpolationNode",
    "typing": "typing.Any typing.Dict typing.List typing.Union typing.Optional typing.Tuple",
    "Lightning": "pytorch_lightning.utilities.parsing.AttributeDict "
    "lightning.pytorch.utilities.parsing.AttributeDict "
    "lightning.fabric.utilities.parsing.AttributeDict "
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint "
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "OpenMMLab": "mmengine.config.config.ConfigDict mmcv.utils.config.ConfigDict "
    "mmengine.logging.history_buffer.HistoryBuffer",
}
ENUMERATIONS = """
    torchvision.transforms.functional.InterpolationMode
    pytorch_lightning.trainer.states.TrainerFn pytorch_lightning.trainer.states.TrainerStatus
    lightning.pytorch.trainer.states.TrainerFn lightning.pytorch.trainer.states.TrainerStatus
    transformers.trainer_utils.IntervalStrategy transformers.trainer_utils.SchedulerType
    transformers.training_args.OptimizerNames accelerate.utils.dataclasses.DistributedType
""".split()


@pytest.mark.parametrize("who", [*NAMES, "enumerations"])
def test_what_trainers_leave_beside_a_state_dict_is_read_over(tmp_path, who):
    """Named, called and given a state; members of enumerations, by value and by name, too."""
    names = NAMES[who].split() if who in NAMES else ENUMERATIONS
    kept = []
    for name in names:
        known = Global(*name.rsplit(".", 1))
        kept += [known, State(Call(known, ("x", 1)), {"y": 2})]
        kept.append(Raw(f"c{known.module}\n{known.name}\n)}}\x92".encode("latin-1")))  # NEWOBJ_EX
        if who == "enumerations":
            kept.append(Call(Global("builtins", "getattr"), (known, "MEMBER")))
    write_zip(tmp_path / "x.pth", {"hyper_parameters": kept, "state_dict": {"w": WEIGHT}})
    np.testing.assert_array_equal(read(tmp_path / "x.pth").arrays["w"], WEIGHT)


PROGRAMS = [
    b"K\x012\x86.", b"K\x01K\x020.", b"K\x01(NN1.", b"K\x01(0.",  # DUP, POP, POP_MARK
    b"K\x07q\x030h\x03.", b"K\x07r\3\1\0\0j\3\1\0\0\x86.", b"I7\np3\n0g3\n.", b"K\x01\x94h\0\x86.",
    b"(I01\nI00\nI2\nt.", b"(K\x01K\x02d.", b"(K\x01K\x02l.", b"]K\x01a.", b"}K\x01K\x02s.",
    b"](K\x01K\x02e.", b"}(K\x01K\x02u.", b"K\x01K\x02K\x03\x87.", b"K\x01\x85.", b"(K\x01t.",
    b").", b"\x88\x89\x86.", b"F0.5\n.", b"L12L\n.", b"S'a'\n.", b"Va\n.", b"T\1\0\0\0a.", b"U\1a.",
    b"\x8a\2\xff\7.", b"\x8b\1\0\0\0\7.", b"M\1\2.", b"J\xff\xff\xff\xff.", b"\x8c\1a.",
    b"\x8d\1" + bytes(7) + b"a.", b"\x8e\1" + bytes(7) + b"a.", b"C\1a.", b"B\1\0\0\0a.",
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=repr)
def test_opcodes_do_what_they_do_in_python(program):
    ours, theirs = pickles.unpickle(io.BytesIO(program), None), pickle.loads(program)
    assert ours == theirs and type(ours) is type(theirs)


def test_methods_of_a_history_are_read_over(tmp_path):
    """mmengine saves those that it computes statistics with."""
    history = Global("mmengine.logging.history_buffer", "HistoryBuffer")
    getattr_ = Global("__builtin__", "getattr")
    methods = [Call(getattr_, (history, name)) for name in ("min", "max", "mean", "current")]
    named = [
        Global(history.module, f"{history.name}.{name}")
        for name in ("min", "max", "mean", "current")
    ]
    write_zip(tmp_path / "x.pth", {"hub": methods + named, "state_dict": {"w": WEIGHT}})
    assert list(read(tmp_path / "x.pth").arrays) == ["w"]


def test_tensors_in_every_wrapping(tmp_path):
    """torch/_utils.py and torch/_tensor.py: parameters, subclasses, and what PyTorch 0.3 wrote."""
    storage = Persistent(("storage", FLOATS, "0", "cpu", 6))
    cuda = Persistent(("storage", Global("torch.cuda", "FloatStorage"), "0", "cuda:0", 6))
    typed = Persistent(("storage", Global("torch.storage", "FloatStorage"), "0", "cpu", 6))
    place = (0, (2, 3), (3, 1))
    plain = tensor(storage, View(SIX, *place))
    hooks = Call(Global("collections", "OrderedDict"), ())
    rebuild = {name: Global("torch._utils", f"_rebuild_{name}") for name in (
        "tensor", "parameter", "parameter_with_state")}  # fmt: skip
    from_type = Global("torch._tensor", "_rebuild_from_type_v2")
    second = Global("torch._utils", "_rebuild_tensor_v2")
    arguments = (storage, *place, False, hooks)
    wrapped = {
        "plain": plain,
        "of a GPU": tensor(cuda, View(SIX, *place)),
        "typed": tensor(typed, View(SIX, *place)),
        "old": Call(rebuild["tensor"], (storage, *place)),
        "parameter": Call(rebuild["parameter"], (plain, True, hooks)),
        "with a state": Call(rebuild["parameter_with_state"], (plain, True, hooks, {"a": 1})),
        "class": Call(Global("torch.nn.parameter", "Parameter"), (plain, True)),
        "subclass": Call(from_type, (second, Global("torch", "Size"), arguments, {"a": 1})),
    }
    sizes = Call(Global("torch", "Size"), ((2, 3),))
    more = {"size": sizes, "counts": Call(Global("collections", "defaultdict"), ())}
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled({"model": wrapped, "epoch": more}))
        archive.writestr("archive/data/0", SIX.tobytes())
    arrays = read(tmp_path / "x.pth").arrays
    assert list(arrays) == list(wrapped)
    for array in arrays.values():
        np.testing.assert_array_equal(array, WEIGHT)


FLOATS = Global("torch", "FloatStorage")
SIX = np.arange(6, dtype=np.float32)
LIES = {
    "behind the storage": View(SIX, 1, (2, 3), (3, 1)),
    "strides too long": View(SIX, 0, (2, 3), (4, 1)),
    "negative offset": View(SIX, -1, (2, 3), (3, 1)),
    "negative stride": View(SIX, 5, (6,), (-1,)),
    "larger than the file": View(SIX, 0, (2**40,), (0,)),
    "larger than memory": View(SIX, 0, (2**47, 2**47), (0, 0)),
    "empty, and not": View(SIX, 0, (0, 2**47, 2**47), (1, 1, 1)),
    "shape and strides": View(SIX, 0, (2, 3), (1,)),
    "65 axes": View(SIX, 0, (1,) * 65, (1,) * 65),
    "size of another type": View(SIX, "0", (2, 3), (3, 1)),
    "no storage": tensor("storage", View(SIX, 0, (6,), (1,))),
    "no such storage": tensor(
        Persistent(("storage", FLOATS, "7", "cpu", 6)), View(SIX, 0, (6,), (1,))
    ),
    "persistent id of a module": Persistent(("module", "x", "y", "z")),
    "persistent id of text": Persistent("0"),
    "storage of no type": Persistent(("storage", "FloatStorage", "0", "cpu", 6)),
    "storage of a negative size": Persistent(("storage", FLOATS, "0", "cpu", -6)),
    "call of a text": Call("text", ()),
    "call of a tensor": Call(View(SIX, 0, (6,), (1,)), ()),
    "missing memo": Raw(b"h\x07"),
    "empty stack": Raw(b"000000000"),
    "extension": Raw(b"\x82\x01"),
    "text longer than memory": Raw(b"\x8d" + struct.pack("<Q", 2**62)),
    "text longer than the file": Raw(b"X" + struct.pack("<I", 2**32 - 1)),
    "bytes longer than the file": Raw(b"\x8e" + struct.pack("<Q", 2**40)),
    "key that can't be hashed": Raw(b"}]Ns"),
    "key that ends Python when hashed": Raw(b"})" + b"\x85" * 200_000 + b"Ns"),
    "global of no text": Raw(b"]]\x93"),
}


def test_lies_are_told_in_one_line(tmp_path, write):
    said = {}
    for name, lie in LIES.items():
        write(tmp_path / "x.pth", {"state_dict": {"fine": WEIGHT, "lie": lie}})
        try:
            said[name] = f"was read: {read(tmp_path / 'x.pth')}"
        except ValueError as error:
            said[name] = str(error)
    for name, line in said.items():
        assert re.fullmatch(r"\S+x\.pth .*Received: [^\n]+", line), (name, line)


def test_a_large_memo_index_costs_nothing(tmp_path, write):
    """Python's own unpickler would allocate 64 GB."""
    write(tmp_path / "x.pth", {"w": WEIGHT, "memo": Raw(b"Nr" + b"\xff" * 4)})
    assert list(read(tmp_path / "x.pth").arrays) == ["w"]


@pytest.mark.parametrize("numel", [5, 7, 2**40])
def test_storage_of_another_size_than_its_header(tmp_path, write, numel):
    pid = Persistent(("storage", FLOATS, "0", "cpu", numel, *((None,) * (write is write_legacy))))
    pickle_ = pickled({"w": tensor(pid, View(SIX, 0, (5,), (1,)))})
    if write is write_zip:
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", pickle_)
            archive.writestr("archive/data/0", SIX.tobytes())
    else:
        parts = [pickled(v) for v in (MAGIC, 1001, {})] + [pickle_, pickled(["0"])]
        (tmp_path / "x.pth").write_bytes(b"".join(parts) + struct.pack("<q", 6) + SIX.tobytes())
    with pytest.raises(ValueError, match="Received: .*float32"):
        read(tmp_path / "x.pth")


def test_compressed_and_encrypted_entries_are_refused(tmp_path):
    write_zip(tmp_path / "x.pth", {"w": WEIGHT}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read(tmp_path / "x.pth")
    write_zip(tmp_path / "y.pth", {"w": WEIGHT})
    data = bytearray((tmp_path / "y.pth").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # APPNOTE.TXT, 4.4.4: bit 0 of the flags
    (tmp_path / "y.pth").write_bytes(data)
    with pytest.raises(ValueError, match="encrypted"):
        read(tmp_path / "y.pth")


@pytest.mark.parametrize("protocol", range(6))
def test_whatever_python_has_beside_arrays_is_read_over(tmp_path, protocol):
    kept = {
        "numbers": [0, -1, 255, 65_535, 2**31 - 1, -(2**31), 2**70, -(2**2100), 0.5, 1j],
        "constants": (None, True, False),
        "texts": ["", "short", "é" * 300, b"", b"bytes", b"b" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": [set(), {1, 2}, frozenset(), frozenset({3})],
        "more": [range(3), slice(1, 2), collections.OrderedDict(a=1), collections.Counter("ab")],
        "types": [int, float, str, bool, complex, tuple, range, slice],
        ("a", 1): collections.defaultdict(list),
    }
    kept["again"] = kept["tuples"]
    if protocol == 5:
        kept["bytearray"] = bytearray(b"x")
    root = {"config": kept, "model": {"w": WEIGHT}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(root, protocol))
    found = read(tmp_path / "x.pkl")
    assert list(found.arrays) == ["w"] and np.array_equal(found.arrays["w"], WEIGHT)


SELF = Raw(b"}q\x01X\x0a\0\0\0state_dicth\x01s")  # a dict whose state_dict is itself


@pytest.mark.parametrize("root", [[WEIGHT], WEIGHT, {"epoch": 3}, {}, SELF])
def test_no_state_dict(tmp_path, write, root):
    write(tmp_path / "x.pth", root)
    with pytest.raises(ValueError, match="has no state dict in it. Received: a "):
        read(tmp_path / "x.pth")


def test_damage_never_surprises(tmp_path, write):
    """Cut anywhere, or with any byte changed, a file is read or refused; nothing else happens."""
    write(tmp_path / "x.pth", {"meta": beside_the_state_dict(), "state_dict": {"w": WEIGHT}})
    whole = (tmp_path / "x.pth").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    for position in rng.integers(len(whole), size=500):
        changed = bytearray(whole)
        changed[position] = rng.integers(256)
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        (tmp_path / "x.pth").write_bytes(data)
        try:
            read(tmp_path / "x.pth")
        except ValueError as error:
            assert "\n" not in str(error) and "Received: " in str(error)
            refused += 1
    assert refused >= len(range(0, len(whole), 7))


REAL = r"""
import collections, datetime, sys, types
import numpy as np, torch
folder = sys.argv[1]
history = types.ModuleType("mmengine.logging.history_buffer")
class HistoryBuffer:
    def __init__(self):
        self.values = np.arange(3.0)
        self.methods = {"min": HistoryBuffer.min}
    def min(self):
        return self.values.min()
HistoryBuffer.__module__ = HistoryBuffer.min.__module__ = history.__name__
history.HistoryBuffer = HistoryBuffer
for name in ("mmengine", "mmengine.logging"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[history.__name__] = history
torch.manual_seed(0)
base = torch.randn(4, 6)
state = collections.OrderedDict(
    single=base, double=base.double(), half=base.half(), brain=base.bfloat16(),
    transposed=base.t(), window=base[1:3, 2:5], expanded=base[0, 0].expand(5),
    parameter=torch.nn.Parameter(base + 1), counter=torch.tensor(7), empty=torch.zeros(0, 3),
)
state._metadata = {"": {"version": 1}}
root = dict(
    state_dict=state,
    optimizer=torch.optim.SGD([torch.nn.Parameter(base)], 0.1, 0.9).state_dict(),
    meta=dict(time=datetime.datetime.now(), best=np.float64(0.5), array=np.arange(4), seed=None,
              size=base.shape, device=torch.device("cpu"), kinds={1, 2}, dtype=torch.float32),
    message_hub=dict(log=HistoryBuffer()),
)
torch.save(root, folder + "/zip.pth")
torch.save(root, folder + "/legacy.pth", _use_new_zipfile_serialization=False)
np.savez(folder + "/truth.npz", **{k: v.detach().double().numpy() for k, v in state.items()})
"""


def test_files_of_pytorch_itself(tmp_path):
    subprocess.run([torch_python(), "-c", REAL, str(tmp_path)], check=True)
    truth = np.load(tmp_path / "truth.npz")
    for name in ("zip", "legacy"):
        arrays = read(tmp_path / f"{name}.pth").arrays
        assert list(arrays) == list(truth)
        assert arrays["brain"].dtype == ml_dtypes.bfloat16 and arrays["half"].dtype == np.float16
        for key in truth:
            np.testing.assert_array_equal(arrays[key].astype(np.float64), truth[key])


LONG = b"(" + b"N" * 1000 + b"lq\1"  # a list that the memo keeps
# Of each a hundred copies are asked for, which a thousand times as many would be, too.
COPIES = {
    "lists": LONG + b"cbuiltins\nlist\nq\2" + b"(h\2h\1oq\3" * 100,
    "sets": LONG + b"cbuiltins\nset\nq\2" + b"(h\2h\1oq\3" * 100,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_list_that_is_named_often_is_there_once(kind):
    made = pickles.unpickle(io.BytesIO(b"(" + COPIES[kind] + b"l."), None)
    lists = [item for item in made if type(item) is list]
    assert len(lists) == 101 and len({id(item) for item in lists}) == 1


def test_the_pairs_of_a_dict_are_used_once():
    program = b"(" + b"]q\1(X\1\0\0\0aK\1la" + b"ccollections\nOrderedDict\nq\2" + b"(h\2h\1o" * 2
    made = pickles.unpickle(io.BytesIO(program + b"l."), None)
    assert [item for item in made if type(item) is dict] == [{"a": 1}, {}]


def test_big_endian_storages_that_lie_over_each_other(tmp_path):
    """Each would be copied, to turn its bytes round."""
    values = np.arange(500, dtype=np.float32)
    write_zip(tmp_path / "x.pth", {f"w{i}": values + 0 for i in range(4)}, byteorder="big")
    assert len(read(tmp_path / "x.pth").arrays) == 4
    data = bytearray((tmp_path / "x.pth").read_bytes())
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        first, *others = (e for e in archive.infolist() if "/data/" in e.filename)
    # All entries of the directory point to the first; the file then ends behind it.
    start = data.index(b"PK\1\2")
    for entry in others:
        at = data.index(entry.filename.encode(), start)
        data[at - 4 : at] = struct.pack("<I", first.header_offset)
    middle = first.header_offset + 30 + len(first.filename) + 2000
    shift = start - middle
    end = data.index(b"PK\5\6")
    data[end + 16 : end + 20] = struct.pack("<I", middle)
    (tmp_path / "y.pth").write_bytes(data[:middle] + data[middle + shift :])
    with pytest.raises(ValueError, match="storages that are larger than it"):
        read(tmp_path / "y.pth")


def test_tensors_that_share_values_are_no_way_to_a_large_model(tmp_path, write):
    storage = np.arange(2000, dtype=np.float32)
    few = {f"w{i}": View(storage, 0, (2000,), (1,)) for i in range(4)}
    write(tmp_path / "x.pth", few)
    assert len(read(tmp_path / "x.pth").arrays) == 4
    write(tmp_path / "x.pth", {f"w{i}": View(storage, 0, (2000,), (1,)) for i in range(5)})
    with pytest.raises(ValueError, match="tensors that together are larger than the file"):
        read(tmp_path / "x.pth")


@pytest.mark.slow
def test_a_flood_of_opcodes_is_no_checkpoint(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"\x80\x02(" + b"]" * 4_100_000 + b"l.")
    with pytest.raises(ValueError, match="larger than any checkpoint's. Received: 4,000,000"):
        read(tmp_path / "x.pth")


def test_a_long_name_makes_no_long_line(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"c" + b"o" * 10**6 + b"\nx\n.")
    with pytest.raises(ValueError, match="nothing in it was run") as error:
        read(tmp_path / "x.pth")
    assert len(str(error.value)) < 1000
