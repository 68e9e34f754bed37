"""The commands and the lines of docs/clients.md, in the programs that they are for."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from resnet_keras.exporting import save_plain
from resnet_keras.model_files import Metadata
from resnet_keras.preprocessing import Preprocessing

PAGE = Path("docs/clients.md")
CV4 = "opencv-python-headless==4.12.0.88"
MEDIAPIPE = (
    *("mediapipe==1.2.3", "matplotlib", "kiwisolver", "cycler", "pyparsing", "contourpy"),
    *("fonttools", "python-dateutil", CV4),
)
# Of each section, the packages that its lines need and we do not have.
PYTHON = [
    ("LiteRT", ()),
    ("MediaPipe", MEDIAPIPE),
    ("ONNX Runtime", ("onnxruntime",)),
    ("OpenVINO", ()),
    ("OpenCV", (CV4,)),
    ("OpenCV", ("opencv-python-headless==5.0.0.93",)),
    ("ncnn", ("ncnn==1.0.20261020", "pnnx==20261020")),
]
NODE = {"Browser": "onnxruntime-web@1.30.0", "TensorFlow.js": "@tensorflow/tfjs@4.22.0"}
TENSORFLOWJS = ("tensorflowjs==4.22.0", "tensorflow_hub", "tf_keras")
COREML = ("coremltools==9.0", "attrs", "cattrs", "pyaml", "sympy", "mpmath")
NOT_RUN = {"TensorFlow Serving", "Triton", "Core ML"}
TEXT = {"Networks without a head", "Networks of keras.applications"}

CLASSIFY = """
import pathlib, shutil
import numpy as np
lines = compile(pathlib.Path("lines.py").read_text(), "lines.py", "exec")
found = []
for number in range(20):
    shutil.copy(f"windows/{number}.png", "image.png")
    names = {}
    exec(lines, names)
    found.append(np.array(names["scores"], np.float32))
np.save("scores.npy", found)
"""

# `canvas` has what the lines use of one; what they fetch comes from the test's server.
CLASSIFY_JS = """
import fs from "node:fs";
%(imports)s
const [address, windows, out] = process.argv.slice(2);
const fetched = globalThis.fetch;
globalThis.fetch = (path, ...rest) => fetched(new URL(path, address), ...rest);
async function classify(canvas) {
%(lines)s
return Array.from(scores);
}
const found = [];
for (const pixels of JSON.parse(fs.readFileSync(windows))) {
    const data = Uint8ClampedArray.from(pixels);
    const getContext = () => ({ getImageData: () => ({ data }) });
    found.push(await classify({ width: 64, height: 64, getContext }));
}
fs.writeFileSync(out, JSON.stringify(found));
"""

# Stands in for the server, which answers rows of instances with rows of predictions.
SERVE = """
import base64, io, json, runpy, urllib.request
import tensorflow as tf
def answer(request):
    body = json.loads(request.data)
    files = [base64.b64decode(row["b64"]) for row in body["instances"]]
    serve = tf.saved_model.load("served/resnet/1").signatures[body["signature_name"]]
    outputs = {name: value.numpy().tolist() for name, value in serve(tf.constant(files)).items()}
    rows = [dict(zip(outputs, row)) for row in zip(*outputs.values())]
    return io.StringIO(json.dumps({"predictions": rows}, default=bytes.decode))
urllib.request.urlopen = answer
found = runpy.run_path("lines.py")["found"]
json.dump(found, open("found.json", "w"))
"""


def sections():
    """The blocks of each section: `(language, text without the line that says what it needs)`."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.M)[1:]
    return {
        title: [
            (language, block.split("\n", 1)[1] if " needs " in block.split("\n")[0] else block)
            for language, block in re.findall(r"```(\w*)\n(.*?)```", text, re.S)
        ]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def blocks(title, language):
    return [block for found, block in sections()[title] if found == language]


@pytest.fixture
def folder(network, images, tmp_path):
    """`model.keras`, the folder of images that it is proved on, and the images to classify."""
    save_plain(network, tmp_path / "model.keras", "softmax")
    labels = tuple(f"class {i}" for i in range(10))
    metadata = Metadata(Preprocessing(64), labels, dataset=f"folder:{tmp_path / 'labelled'}")
    metadata.write(tmp_path / "model.keras")
    (tmp_path / "windows").mkdir()
    for number, pixels in enumerate(images):
        label = tmp_path / "labelled" / "test" / labels[number % 10]
        for where in (label, tmp_path / "labelled" / "train" / label.name):
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(where / f"{number}.png")
        Image.fromarray(pixels).save(tmp_path / "windows" / f"{number}.png")
    return tmp_path


def do(command, folder, path=(), **environment):
    """Run a program; its paths begin with those of `path`, ours behind them."""
    path = os.pathsep.join(map(str, path))
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900,
        env={**os.environ, **environment, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def export(title, folder):
    """Do the first command of a section; return the others."""
    first, *others = "".join(blocks(title, "sh")).splitlines()
    assert first.startswith("python -m resnet_keras export model.keras ")
    do([sys.executable, *first.split()[1:]], folder, [Path.cwd()])
    return others


def require_equal(got, expected):
    got = np.reshape(got, expected.shape)
    assert np.array_equal(got.argmax(1), expected.argmax(1))
    assert np.abs(got - expected).max() < 1e-4


def test_each_section_is_tried_or_says_that_it_is_not():
    tried = {title for title, _ in PYTHON} | set(NODE) | {"Keras"}
    assert set(sections()) == tried | NOT_RUN | TEXT
    text = PAGE.read_text()
    for title in tried | NOT_RUN:
        anchor = title.lower().replace(" ", "-").replace(".", "")
        (row,) = re.findall(rf"^\| \[{re.escape(title)}\]\(#{anchor}\).*", text, re.M)
        assert ("not run here" in row) == (title in NOT_RUN)
    for _, names in PYTHON:
        for name, version in (name.split("==") for name in names if "==" in name):
            assert version.rsplit(".", 1)[0] in text or version in text, name
    for name in NODE.values():
        assert name.rsplit("@", 1)[1] in text
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", Path("requirements.txt").read_text(), re.M))
    for name in ("ai-edge-litert", "onnxruntime", "keras"):
        assert pinned[name] in text, name


@pytest.mark.slow
@pytest.mark.parametrize(("title", "names"), PYTHON, ids=[f"{t}-{n[:1]}" for t, n in PYTHON])
def test_python(title, names, folder, packages, expected):
    path = [packages(names)] if names else []
    for command in export(title, folder):
        assert command.startswith("pnnx ")
        # Not the script of that name, which needs PyTorch.
        files = [file for file in path[0].rglob("pnnx") if file.is_file()]
        program = max(files, key=lambda file: file.stat().st_size)
        program.chmod(0o755)
        do([program, *command.split()[1:]], folder)
    (folder / "lines.py").write_text(blocks(title, "python")[-1])
    do([sys.executable, "-c", CLASSIFY], folder, path, CI="true")
    require_equal(np.load(folder / "scores.npy"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch", "numpy"])
def test_keras(backend, folder, packages, expected):
    path = []
    if backend == "torch":
        needed = ("filelock", "networkx", "sympy", "mpmath", "jinja2", "markupsafe", "fsspec")
        path = [packages(("torch==2.13.0", *needed))]
    (folder / "lines.py").write_text(blocks("Keras", "python")[-1])
    do([sys.executable, "-c", CLASSIFY], folder, path, KERAS_BACKEND=backend)
    require_equal(np.load(folder / "scores.npy"), expected)


@pytest.fixture
def address(folder):
    """A server of the folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm installs it")
@pytest.mark.parametrize(("title", "name"), NODE.items())
def test_javascript(title, name, folder, images, packages, expected, address):
    for command in export(title, folder):
        program, *arguments = command.split()
        assert program == "tensorflowjs_converter"
        convert_for_tensorflowjs(arguments, folder, packages(TENSORFLOWJS))
    opaque = np.concatenate([images, np.full_like(images[..., :1], 255)], -1)
    (folder / "windows.json").write_text(json.dumps(opaque.reshape(20, -1).tolist()))
    (block,) = blocks(title, "js")
    imports = [line for line in block.splitlines() if line.startswith("import ")]
    lines = [line for line in block.splitlines() if line not in imports]
    program = CLASSIFY_JS % {"imports": "\n".join(imports), "lines": "\n".join(lines)}
    (folder / "classify.mjs").write_text(program)
    (folder / "package.json").write_text("{}")
    do(["npm", "install", "--no-audit", "--no-fund", "--silent", name], folder)
    do(["node", "classify.mjs", address, "windows.json", "scores.json"], folder)
    require_equal(json.loads((folder / "scores.json").read_text()), expected)


def convert_for_tensorflowjs(arguments, folder, path):
    """Run its converter without a package of trees, which it imports and needs for these only."""
    stub = folder / "stub"
    stub.mkdir()
    (stub / "tensorflow_decision_forests.py").write_text("")
    program = "from tensorflowjs.converters.converter import pip_main; pip_main()"
    do([sys.executable, "-c", program, *arguments], folder, [stub, path])


@pytest.mark.slow
def test_core_ml_converts(folder, packages):
    assert export("Core ML", folder) == []
    (folder / "lines.py").write_text(blocks("Core ML", "python")[0])
    do([sys.executable, "lines.py"], folder, [packages(COREML)])
    assert (folder / "model.mlpackage" / "Manifest.json").is_file()


@pytest.mark.slow
def test_triton_is_told_what_the_file_has(folder):
    assert export("Triton", folder) == []
    model = onnx.load(folder / "models" / "resnet" / "1" / "model.onnx").graph
    (told,) = blocks("Triton", "")
    for kind, (value,) in {"input": model.input, "output": model.output}.items():
        name, shape = re.search(rf'{kind} \[{{ name: "(\w+)".*?dims: \[(.*?)\]', told).groups()
        batch, *dims = value.type.tensor_type.shape.dim
        assert value.name == name and not batch.dim_value
        assert [each.dim_value for each in dims] == [int(n) for n in shape.split(", ")]


@pytest.mark.slow
def test_tensorflow_serving_is_asked_for_what_the_file_has(folder, expected):
    """Its server is not here; what its lines send is given to the signature that they name."""
    (first,) = export("TensorFlow Serving", folder)[:1]
    assert first.startswith("docker run ")
    (lines,) = blocks("TensorFlow Serving", "python")
    shutil.copy(folder / "windows" / "0.png", folder / "image.png")
    (folder / "lines.py").write_text(lines)
    (folder / "serve.py").write_text(SERVE)
    do([sys.executable, "serve.py"], folder)
    found = json.loads((folder / "found.json").read_text())
    assert found["classes"][0] == f"class {expected[0].argmax()}"
    assert found["scores"][0] == pytest.approx(expected[0].max(), abs=1e-4)
