"""A checkpoint's file: damaged or none at all, it is named; from the hub; without TensorFlow."""

import hashlib
import http.server
import importlib.util
import json
import sys
import threading
import types
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from checkpoints import SMALL, relative, small, small_state, write_keras2
from pth_writer import write_legacy, write_zip
from safetensors.numpy import load_file, save_file

from resnet_keras import ResNet
from resnet_keras.weights import load_weights, save_torch
from resnet_keras.weights.formats import read


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One good file of each format."""
    folder = tmp_path_factory.mktemp("files")
    write_zip(folder / "zip.pth", {"state_dict": small_state()})
    write_legacy(folder / "legacy.pth", {"state_dict": small_state()})
    save_file(small_state(), folder / "x.safetensors")
    model = small()
    model.save(folder / "x.keras")
    model.save_weights(folder / "x.weights.h5")
    write_keras2(model, folder / "x.h5")
    return folder


FORMATS = ["zip.pth", "legacy.pth", "x.safetensors", "x.keras", "x.weights.h5", "x.h5"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.999])
def test_truncated_files(tmp_path, files, name, share):
    data = (files / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"^\S+{name} [^\n]*(truncated|damaged)[^\n]*Received: "):
        read(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html>\n<html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"PK\x03\x04 and nothing more", "not a checkpoint"),
        (b"PK\x05\x06" + bytes(18), "not of torch.save"),  # an empty zip
        (bytes(range(256)), "not a checkpoint"),
        (b"a text\nof two lines\n", "not a checkpoint"),
    ],
)
def test_no_checkpoint_at_all(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^\S+{name} [^\n]*{message}[^\n]*Received: [^\n]+$"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "dtype",
    [*"float64 float32 float16 bfloat16 int64 int32 int16 int8".split(),
     *"uint64 uint32 uint16 uint8 bool".split()],
)  # fmt: skip
def test_every_type_of_safetensors(tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = {"b": rng.integers(0, 2, 3).astype(dtype), "a": np.array(1).astype(dtype)}
    arrays |= {"empty": np.zeros((0, 3), dtype), "other": rng.normal(size=(2, 3, 5))}
    arrays |= {"kernel": rng.integers(0, 99, (3, 4, 5)).astype(dtype), "byte": np.uint8([7])}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read(tmp_path / "x.safetensors").arrays
    assert set(found) == set(arrays)
    for key, truth in arrays.items():
        assert (found[key].dtype, found[key].shape) == (truth.dtype, truth.shape)
        np.testing.assert_array_equal(found[key], truth)


def test_a_type_of_safetensors_that_numpy_does_not_have(tmp_path):
    header = b'{"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}'
    data = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="x.safetensors has tensors .* 'w' of type F8_E4M3$"):
        read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", FORMATS)
def test_the_bytes_tell_the_format_not_the_suffix(tmp_path, files, name):
    (tmp_path / "weights.dat").write_bytes((files / name).read_bytes())
    found, truth = read(tmp_path / "weights.dat").arrays, read(files / name).arrays
    assert found.keys() == truth.keys() and len(found) > 20


def test_a_preset_of_kaggle_is_what_its_package_downloads(tmp_path, monkeypatch):
    save_file(small_state(), tmp_path / "model.safetensors")
    asked = []

    def model_download(handle):
        asked.append(handle)
        if handle.endswith("gone"):
            raise RuntimeError("404 of Kaggle")
        return str(tmp_path)

    kagglehub = types.SimpleNamespace(model_download=model_download)
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    preset = "keras/resnetv1/keras/resnet_18_imagenet"
    for url in (f"kaggle://{preset}", f"kaggle:/{preset}"):  # the latter was a `Path`
        assert read(url).arrays.keys() == small_state().keys()
    assert asked == [preset] * 2
    with pytest.raises(ValueError, match="^kaggle://gone is not a model of Kaggle.*404 of Kaggle"):
        read("kaggle://gone")


@pytest.mark.parametrize(
    ("package", "url"), [("kagglehub", "kaggle://a/b/c/d"), ("huggingface_hub", "hf://a/b")]
)
def test_a_hub_whose_package_is_not_there_is_refused_with_what_to_install(
    monkeypatch, package, url
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs {package}: pip install .* Received: {url}"):
        read(url)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="x.pth can't be read. Received: No such file"):
        read(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="without any of model.safetensors.*: an empty folder"):
        read(tmp_path)


def test_hdf5_does_not_lead_out_of_the_file(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("conv1_conv")
        group.create_dataset("conv1_conv/kernel:0", (8,), "f8", external=[(str(secret), 0, 64)])
    with pytest.raises(ValueError, match="not in the file"):
        read(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("conv1_conv/conv1_conv/kernel:0", (2**40,), "f4", chunks=(1024,))
    with pytest.raises(ValueError, match="not in the file"):
        read(tmp_path / "x.h5")


@pytest.fixture
def hub(tmp_path):
    """The Hugging Face Hub in small, on loopback: weights alone, and weights with a config.json."""
    save_file(small_state(), tmp_path / "model.safetensors")
    weights = (tmp_path / "model.safetensors").read_bytes()
    config = {"architecture": "resnet18", "pretrained_cfg": {
        "input_size": [3, 32, 32], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3,
    }}  # fmt: skip
    files = {
        "/some/resnet/resolve/main/model.safetensors": weights,
        "/timm/ra4/resolve/main/model.safetensors": weights,
        "/timm/ra4/resolve/main/config.json": json.dumps(config).encode(),
        "/timm/aa/resolve/main/model.safetensors": weights,
        "/timm/aa/resolve/main/config.json": b'{"architecture": "resnetaa50"}',
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            data = files.get(self.path)
            found = data is not None
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
            elif self.path.startswith(("/some/resnet/", "/timm/")):
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(files[self.path])

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FETCH = """
import sys
from resnet_keras.weights.formats import read
for url in sys.argv[1:]:
    try:
        found = read(url)
        print(*sorted(found.arrays), *found.facts)
    except ValueError as error:
        print(error)
"""


def test_hub(hub, tmp_path, run_python):
    """From a server; then, with the network off, from the cache."""
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed")
    here = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1"}
    here |= {"HF_HUB_DISABLE_XET": "1", "KERAS_BACKEND": "numpy"}
    names = " ".join(sorted(small_state()))

    urls = ["hf:/some/resnet", "hf://some/resnet/model.safetensors", "hf://some/other"]
    urls.append("hf://timm/ra4")  # which has a config.json
    for offline in ("0", "1"):
        done = run_python("-c", FETCH, *urls, **here, HF_HUB_OFFLINE=offline)
        assert done.returncode == 0, done.stderr
        found, file, other, described = done.stdout.splitlines()
        assert found == file == names and described == f"{names} config.json"
        assert other.startswith("hf://some/other has none of") and "Received: " in other


TAKE = """
import sys
from resnet_keras import Spec, ResNet
spec = Spec("basic", (1, 1), (16, 32), stem="cifar")
try:
    model = ResNet(spec, weights=sys.argv[1])
except ValueError as error:
    print(error)
else:
    layer = model.get_layer("normalise")
    print(model.output_shape, *layer.scale, *layer.offset)
"""


@pytest.mark.slow
def test_a_repository_of_the_hub_tells_its_preprocessing_and_what_it_is(hub, tmp_path, run_python):
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed")
    here = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1"}
    here |= {"HF_HUB_DISABLE_XET": "1", "KERAS_BACKEND": "numpy"}
    done = run_python("-c", TAKE, "hf://timm/ra4", **here)
    assert done.returncode == 0, done.stderr
    shape, _, numbers = done.stdout.strip().rpartition(") ")
    assert shape == "(None, 10"
    assert np.allclose([float(n) for n in numbers.split()], [1 / 127.5] * 3 + [-1] * 3)
    assert "assumed" not in done.stderr
    done = run_python("-c", TAKE, "hf://timm/aa", **here)
    assert "hf://timm/aa is of timm's resnetaa50, which is not among" in done.stdout
    done = run_python("-c", TAKE, "hf://some/resnet", **here)
    assert done.stdout and "assumed: RGB (--bgr)" in done.stderr


ON_JAX = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError("no TensorFlow here")

sys.meta_path.insert(0, Blocked())
import keras, numpy as np
from resnet_keras.weights import convert
folder = sys.argv[1]
assert keras.backend.backend() == "jax"
print(convert(f"{folder}/x.pth", f"{folder}/x.keras"))
model = keras.saving.load_model(f"{folder}/x.keras")
np.save(f"{folder}/scores.npy", model(np.load(f"{folder}/images.npy")))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_jax_without_tensorflow(tmp_path, run_python):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    write_zip(tmp_path / "x.pth", {"state_dict": small_state()})
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    np.save(tmp_path / "images.npy", images)
    done = run_python("-c", ON_JAX, tmp_path, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    here = ResNet(SMALL)
    load_weights(here, tmp_path / "x.pth")
    scores = keras.ops.convert_to_numpy(here(images))
    assert relative(np.load(tmp_path / "scores.npy"), scores) < 1e-5


MEASURE = """
import sys, time
import keras, tensorflow as tf
from resnet_keras.weights import convert

def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

keras.Variable([0.0])
before, start = memory("VmRSS"), time.perf_counter()
convert(sys.argv[1], sys.argv[2])
print(time.perf_counter() - start, memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["pth", "safetensors"])
def test_resnet152_in_15_seconds_and_twice_its_size(tmp_path, run_python, format_):
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    path = tmp_path / f"x.{format_}"
    save_torch(ResNet("resnet152"), tmp_path / "x.safetensors")
    if format_ == "pth":
        write_zip(path, {"state_dict": load_file(tmp_path / "x.safetensors")})
    done = run_python("-c", MEASURE, path, tmp_path / "x.keras")
    assert done.returncode == 0, done.stderr
    seconds, memory = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {memory / path.stat().st_size:.2f} x the file")
    assert seconds < 15 and memory < 2 * path.stat().st_size
