"""A model as a static page that classifies images in the browser, with ONNX Runtime Web."""

import base64
import gzip
import json
import lzma
import shutil
from pathlib import Path

from resnet_keras.model_files import Metadata

# The page as it is written, but for what is compressed with xz; see its README.md.
PAGE = Path(__file__).parent / "page"

# A page that is opened from the disk may not read these, only run them as a script.
_READ = (
    "model.onnx",
    "onnxruntime-web/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/ort-wasm-simd-threaded.wasm",
)

# What the page has to know of metadata; where the training images lay is nobody's business.
_TOLD = ("size", "resize", "interpolation", "antialias", "labels")


def write_web(onnx: str | Path, metadata: Metadata, folder: str | Path) -> None:
    """Write a folder that any file server serves, or a browser opens from the disk.

    Nothing in it asks for anything outside of it; images are prepared as in evaluation.

    Args:
        onnx: the model: one input of pixels 0-255, `(batch, size, size, channels)` or
            `(batch, channels, size, size)`, float32 or uint8, to float32 probabilities.
        metadata: how its images are prepared, and its labels.
        folder: must not exist. It will hold `index.html`, `style.css`, `app.js`, `metadata.js`,
            `model.onnx`, `onnxruntime-web/` and `embedded.js`, a copy of the model and the
            runtime (about 1.3 times as large) that is loaded only where the page is opened from
            the disk, and otherwise may be deleted.
    """
    folder = Path(folder)
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("*.xz", "README.md"))
    for packed in PAGE.rglob("*.xz"):
        (folder / packed.relative_to(PAGE)).with_suffix("").write_bytes(
            lzma.decompress(packed.read_bytes())
        )
    shutil.copyfile(onnx, folder / "model.onnx")
    fields = metadata.to_json()
    told = {name: fields[name] for name in _TOLD}
    (folder / "metadata.js").write_text(f"const METADATA = {json.dumps(told)};\n", encoding="utf-8")
    embedded = {name: _base64(folder / name) for name in _READ}
    text = f"const EMBEDDED = {json.dumps(embedded)};\n"
    (folder / "embedded.js").write_text(text, encoding="utf-8")


def _base64(path: Path) -> str:
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
