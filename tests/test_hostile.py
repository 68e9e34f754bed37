"""Files that mean harm, given to the command line: one line and code 2, or a correct read.

Never a traceback, an end by a signal, code of the file that runs, or memory without bound.
"""

import base64
import io
import json
import marshal
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from bombs import SIGNATURE, bomb, chunk, header
from PIL import Image
from pth_writer import Raw, View, write_zip
from runs import forks

from resnet_keras import ResNet
from resnet_keras.model_files import Metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights.formats import read

WORSE = "\x1b[2J<img src=x onerror=alert(1)>[/b]"

# What a command may take beyond the same one on a good file.
MOST_MIB = 200


def layer(module, name, config, registered=None):
    """As Keras writes an object."""
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def sequential(*layers, shape=(8, 8, 3)):
    """The configuration of a model of such layers."""
    entry = layer("keras.layers", "InputLayer", {"batch_shape": [None, *shape], "name": "i"})
    return json.dumps(
        layer("keras", "Sequential", {"name": "s", "layers": [entry, *layers]})
        | {"build_config": {"input_shape": [None, *shape]}}
    )


CODE = base64.b64encode(
    marshal.dumps((lambda x: [open("MARK", "w").close(), x][1]).__code__)
).decode()
LAMBDA = layer(
    "keras.layers", "Lambda",
    {"name": "l", "function": {"class_name": "__lambda__",
                               "config": {"code": CODE, "defaults": None, "closure": None}}},
)  # fmt: skip
GET_FILE = {"fname": "MARK", "origin": "file:///etc/hostname", "cache_dir": ".", "cache_subdir": ""}

# Configurations, and what the line must say.
CONFIGS = {
    "lambda": (sequential(LAMBDA), "Lambda"),
    "lambda of os.system": (
        sequential(layer("keras.layers", "Lambda", {
            "name": "l", "arguments": {"command": "touch MARK"},
            "function": layer("os", "function", "system", "system")})), "system"),
    "lambda of eval": (
        sequential(layer("keras.layers", "Lambda", {
            "name": "l", "function": layer("builtins", "function", "eval", "function")})), "eval"),
    "safe mode off, then lambda": (
        sequential(layer("keras.config", "enable_unsafe_deserialization", {}), LAMBDA), ""),
    "safe mode off by its own name": (
        sequential(layer("keras.src.saving.serialization_lib", "enable_unsafe_deserialization", {}),
                   LAMBDA), ""),
    "class of os": (sequential(layer("os", "system", {"command": "touch MARK"})), "system"),
    "class of subprocess": (
        sequential(layer("subprocess", "Popen", {"args": ["touch", "MARK"]})), "Popen"),
    "keras.utils.get_file": (sequential(layer("keras.utils", "get_file", GET_FILE)), "get_file"),
    "get_file by its own name": (
        sequential(layer("keras.src.utils.file_utils", "get_file", GET_FILE)), "get_file"),
    "module that nobody has": (sequential(layer("evil.layers", "Evil", {"name": "x"})), "Evil"),
    "vocabulary of another file": (
        sequential(layer("keras.layers", "StringLookup",
                         {"name": "x", "vocabulary": "/etc/passwd"})), "vocabulary"),
    "pickle of torch": (
        sequential(layer("keras.layers", "TorchModuleWrapper", {"name": "x", "module": "AAAA"})),
        ""),
    "SavedModel beside": (
        sequential(layer("keras.layers", "TFSMLayer",
                         {"name": "x", "filepath": ".", "call_endpoint": "serve"})), "TFSMLayer"),
    "weights that are not there": (
        sequential(layer("keras.layers", "Flatten", {"name": "f"}),
                   layer("keras.layers", "Dense", {"name": "x", "units": 10**8})),
        "19,300,000,000 weights, which are not in the file"),
    "large images": (sequential(shape=(10**6, 10**6, 3)), "pixels"),
    "negative": (sequential(layer("keras.layers", "Dense", {"name": "x", "units": -1})), "units"),
    "no JSON": ("{", ""),
    "another JSON": ("[]", ""),
    "null": ("null", ""),
    "deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "recursion"),
}  # fmt: skip


def edited(weights, change):
    """An HDF5 file with its first kernel replaced."""
    content = io.BytesIO(weights)
    with h5py.File(content, "a") as file:
        kernels = []
        file.visititems(lambda name, item: kernels.append(name) if is_kernel(item) else None)
        shape = file[kernels[0]].shape
        del file[kernels[0]]
        change(file, kernels[0], shape)
    return content.getvalue()


def is_kernel(item):
    return isinstance(item, h5py.Dataset) and item.ndim == 4


def outside(file, name, shape):
    file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def link(file, name, shape):
    file[name] = h5py.ExternalLink("/etc/passwd", "x")


def vast(file, name, shape):
    file.create_dataset(name, (10**4, 10**4, 10**4), "f4", chunks=(10, 10, 10))


def archives(parts):
    """`.keras` files whose archive is wrong: what replaces the good file's parts."""
    weights = parts["model.weights.h5"]
    return {
        "no configuration": {"config.json": None},
        "no weights": {"model.weights.h5": None},
        "damaged weights": {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(1000)},
        "weights cut off": {"model.weights.h5": weights[:20_000]},
        "weights of another file": {"model.weights.h5": edited(weights, outside)},
        "link to another file": {"model.weights.h5": edited(weights, link)},
        "weights that nobody wrote": {"model.weights.h5": edited(weights, vast)},
    }


def write_keras(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(name, content)


def huge_images():
    """Images that say they are 100,000 x 100,000, or as large as their format can say."""
    n = 100_000
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "JPEG")
    jpeg = bytearray(small.getvalue())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    screen = struct.pack("<HH", 65535, 65535)
    block = b"\x2c\0\0\0\0" + screen + b"\0\x02\x02\x44\x01\0;"
    colours = b"\x80\0\0" + bytes(6)
    bitmap = struct.pack("<IiiHHIIiiII", 40, n, n, 1, 24, 0, 0, 0, 0, 0, 0)
    canvas = (n - 1).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return {
        "png": bomb(n),
        "jpg": bytes(jpeg),
        "gif": b"GIF89a" + screen + colours + block,
        "frame.gif": b"GIF89a\x01\0\x01\0" + colours + block,  # only its frame is large
        "bmp": b"BM" + struct.pack("<IHHI", 10**4, 0, 0, 54) + bitmap + bytes(1000),
        "webp": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        "text.png": SIGNATURE + header(n, n).replace(struct.pack(">II", n, n), bytes(8))
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300 << 20))),
    }  # fmt: skip


def memory_bombs(folder):
    """`.pth` files of some hundred kB that ask for gigabytes."""
    long = b"(" + b"N" * 100_000 + b"lq\1"
    pairs = b"(" + b"".join(b"I%d\nN\x86" % i for i in range(10_000)) + b"lq\1"
    programs = {
        "lists": long + b"cbuiltins\nlist\nq\2(" + b"(h\2h\1o" * 30_000 + b"l",
        "dicts": pairs + b"ccollections\nOrderedDict\nq\2(" + b"(h\2h\1o" * 30_000 + b"l",
        "sizes": long + b"ctorch\nSize\nq\2(" + b"(h\2h\1o" * 30_000 + b"l",
        "nested": b")" + b"\x85" * 1_000_000,
    }
    for name, program in programs.items():
        write_zip(folder / f"{name}.pth", {"state_dict": {}, "bomb": Raw(program)})
    storage = np.zeros(50_000, np.float32)
    shared = {f"layer1.{i}.conv1.weight": View(storage, 0, (64, 64, 3, 3), (576, 9, 3, 1))
              for i in range(2000)}  # fmt: skip
    write_zip(folder / "shared.pth", shared)
    return [*programs, "shared"]


def at_work(verb, file):
    """A command for a model file."""
    return {
        "predict": f"python -m resnet_keras predict '{file}' good.png --json",
        "evaluate": f"python -m resnet_keras evaluate '{file}' --dataset folder:images --json",
        "export": f"python -m resnet_keras export '{file}' out.tflite --dataset folder:images",
        "convert": f"python -m resnet_keras convert '{file}' out.safetensors",
    }[verb]


VERBS = ("predict", "evaluate", "export")
# By default some files with one verb, and each verb with one file.
QUICK = {("lambda", verb) for verb in VERBS} | {
    (name, "predict")
    for name in ("lambda of os.system", "safe mode off, then lambda", "class of subprocess",
                 "keras.utils.get_file", "module that nobody has", "weights that are not there",
                 "null", "deep", "packed", "weights of another file", "cut")
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good files and bad ones, side by side."""
    folder = tmp_path_factory.mktemp("hostile")
    model = ResNet("resnet20_cifar", input_shape=(8, 8, 3), mean=(127.5,) * 3, std=(127.5,) * 3)
    model.save(folder / "good.keras")
    model.save(folder / "labelled.keras")
    Metadata(Preprocessing(8), labels=(WORSE, *"123456789")).write(folder / "labelled.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "good.png")
    (folder / "[").mkdir()
    Image.fromarray(pixels).save(folder / "[" / "b]\x1b[31m.png")
    for side in ("train", "test"):
        for label in (WORSE.replace("/", "|"), "b"):
            (folder / "images" / side / label).mkdir(parents=True)
            Image.fromarray(pixels).save(folder / "images" / side / label / "0.png")
    with zipfile.ZipFile(folder / "good.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, (config, _) in CONFIGS.items():
        write_keras(folder / f"{name}.keras", parts | {"config.json": config})
    for name, changes in archives(parts).items():
        write_keras(folder / f"{name}.keras", parts | changes)
    away = {"../MARK": b"x", "assets/../../MARK": b"x", f"{folder}/MARK": b"x"}
    write_keras(folder / "away.keras", parts | away)
    for name, kind in (("packed", zipfile.ZIP_DEFLATED), ("lzma", zipfile.ZIP_LZMA)):
        bomb = {"config.json": b"[" + b" " * (300 << 20) + b"]"}
        write_keras(folder / f"{name}.keras", parts | bomb, kind)
    (folder / "empty.keras").write_bytes(b"")
    (folder / "cut.keras").write_bytes((folder / "good.keras").read_bytes()[:-100])
    (folder / "folder.keras").mkdir()
    for name, content in huge_images().items():
        (folder / f"huge.{name}").write_bytes(content)
        for side in ("train", "test"):
            (folder / "bombs" / side / "a").mkdir(parents=True, exist_ok=True)
            (folder / "bombs" / side / "a" / f"huge.{name}").write_bytes(content)
    memory_bombs(folder)
    return folder


@pytest.fixture(scope="module")
def attempt(folder):
    """Run commands, each in a fork of a process that has loaded the libraries: their answers."""
    with forks(folder) as ask:

        def run(commands):
            before = set(folder.parent.rglob("*"))
            answers = {command: ask(command) for command in commands}
            (folder / "out.safetensors").unlink(missing_ok=True)  # of what was read
            written = set(folder.parent.rglob("*")) - before
            assert not written, written  # no MARK, nothing half written
            return answers

        yield run


def refused(answer, most, words=""):
    """Whether a command ended as it must."""
    assert answer["code"] == 2, answer
    (line,) = answer["lines"]
    assert line.startswith("error: ") and words in line and "\x1b" not in line
    assert len(line) < 3000
    assert answer["memory"] < most, answer


def check_models(attempt, pairs):
    commands = {(name, verb): at_work(verb, f"{name}.keras") for name, verb in pairs}
    good = at_work("predict", "good.keras")
    answers = attempt([good, *commands.values()])
    assert answers[good]["code"] == 0, answers[good]
    for (name, _), command in commands.items():
        words = CONFIGS[name][1] if name in CONFIGS else ""
        refused(answers[command], answers[good]["memory"] + MOST_MIB, words)


ARCHIVES = (
    "no configuration", "no weights", "damaged weights", "weights cut off", "packed", "lzma",
    "weights of another file", "link to another file", "weights that nobody wrote",
    "empty", "cut", "folder",
)  # fmt: skip


@pytest.mark.slow
def test_models_that_mean_harm(attempt):
    check_models(attempt, sorted(QUICK))


@pytest.mark.slow
def test_models_that_mean_harm_through_every_verb(attempt):
    names = (*CONFIGS, *ARCHIVES)
    check_models(attempt, [(n, v) for n in names for v in VERBS if (n, v) not in QUICK])


LOAD = "import keras; keras.saving.load_model('lambda.keras', compile=False, safe_mode=False)"


@pytest.mark.slow
def test_the_lambda_is_live(attempt, folder):
    """Keras runs it where it is told to: the tests above could fail."""
    with pytest.raises(AssertionError, match="MARK"):  # by the check of what was written
        attempt([LOAD])
    (folder / "MARK").unlink()


@pytest.mark.slow
def test_checkpoints_that_mean_harm(attempt, folder):
    """Weights are read, nothing is unpacked or run, and no file asks for more than it has."""
    harmless = ["lambda of eval", "away"]  # the network is the same, by its weights
    bombs = ["lists", "dicts", "sizes", "nested", "shared"]
    away = at_work("predict", "away.keras")
    read_all = [at_work("convert", f"{n}.keras") for n in harmless]
    commands = {n: f"python -m resnet_keras convert {n}.pth out.keras" for n in bombs}
    others = ("packed", "lzma", "no weights", "weights of another file",
              "weights that nobody wrote", "link to another file")  # fmt: skip
    others = {n: at_work("convert", f"{n}.keras") for n in others}
    answers = attempt([*read_all, *commands.values(), *others.values(), away])
    for command in (*read_all, away):
        assert answers[command]["code"] == 0, answers[command]
    most = answers[away]["memory"] + MOST_MIB
    for command in (commands | others).values():
        refused(answers[command], most)
    for name in harmless:
        assert len(read(folder / f"{name}.keras").arrays) == 97


@pytest.mark.slow
def test_images_that_say_they_are_huge(attempt):
    names = [f"huge.{name}" for name in huge_images()]
    commands = {n: f"python -m resnet_keras predict labelled.keras {n} --json" for n in names}
    whole = "python -m resnet_keras prepare folder:bombs"
    good = at_work("predict", "good.keras")
    answers = attempt([good, whole, *commands.values()])
    most = answers[good]["memory"] + MOST_MIB
    for name, command in commands.items():
        refused(answers[command], most, name)
    refused(answers[whole], most, f"{2 * len(names)} of {2 * len(names)} files")
    for name in names:
        assert name in answers[whole]["lines"][0]
    assert answers[whole]["lines"][0].count("more than 178 megapixels") >= 8


SERVE = """
import numpy as np, keras, tensorflow as tf
from pathlib import Path
from resnet_keras.model_files import Metadata, load_keras, saved_model
from resnet_keras.exporting import folded
from resnet_keras.preprocessing import Preprocessing
saved_model.write(folded(load_keras("good.keras")), Path("served"), Metadata(Preprocessing(8)))
serve = tf.saved_model.load("served").signatures["serve_bytes"]
assert len(serve(image_bytes=tf.constant([Path("good.png").read_bytes()]))["scores"][0]) == 5
for path in sorted(Path(".").glob("huge.*")):
    try:
        serve(image_bytes=tf.constant([path.read_bytes()]))
    except tf.errors.InvalidArgumentError:
        print(path, "refused")
import shutil
shutil.rmtree("served")
"""


@pytest.mark.slow
def test_a_served_model_refuses_huge_images(attempt):
    good = at_work("predict", "good.keras")
    answers = attempt([good, SERVE])
    assert answers[SERVE]["code"] == 0, answers[SERVE]
    assert sum(line.endswith("refused") for line in answers[SERVE]["lines"]) == len(huge_images())
    assert answers[SERVE]["memory"] < answers[good]["memory"] + 2 * MOST_MIB


@pytest.mark.slow
def test_names_steer_no_terminal(attempt):
    """Names of classes, in a table and in a complaint; names of files, with markup in them."""
    label = "python -m resnet_keras predict labelled.keras good.png --top 10"
    name = "python -m resnet_keras predict good.keras '[/b]\x1b[31m.png'"
    classes = "python -m resnet_keras evaluate good.keras --dataset folder:images"
    answers = attempt([label, name, classes])
    for command, shown in ((label, "\\x1b[2J<img src=x onerror=alert(1)>[/b]"),
                           (name, "[/b]\\x1b[31m.png"), (classes, "\\x1b[2J<img")):  # fmt: skip
        output = answers[command]["output"]
        assert answers[command]["code"] == 0, output
        assert "\x1b" not in output and shown in output
