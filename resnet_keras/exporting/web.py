"""Write a static page around an ONNX file: it classifies images in the browser."""

import base64
import gzip
import json
import lzma
import shutil
from pathlib import Path

from resnet_keras.model_files import Metadata
from resnet_keras.model_files.formats import ONNX

# The format of the file that the page runs.
FORMAT = ONNX

# The page as it is written, but for what is compressed with xz; see its README.md.
PAGE = Path(__file__).parent / "page"

# The name of that file in the page.
MODEL = f"model{FORMAT.suffix}"

# A page that is opened from the disk may not read these, only run them as a script.
_READ = (
    MODEL,
    "onnxruntime-web/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/ort-wasm-simd-threaded.wasm",
)

# What the page needs of the metadata; where the training images were is nobody's business.
_TOLD = ("size", "resize", "interpolation", "antialias", "labels", "threshold")


def write_page(onnx: Path, metadata: Metadata, folder: Path) -> None:
    """Write a folder that any file server serves, or a browser opens from the disk.

    Nothing in it asks for anything outside of it; images are prepared as in evaluation.

    Args:
        onnx: the model: one input of pixels 0-255, `(batch, height, width, channels)` or
            `(batch, channels, height, width)`, float32 or uint8, to float32 probabilities.
        metadata: how its images are prepared, and its labels.
        folder: must not exist. It will hold `index.html`, `style.css`, `app.js`, `metadata.js`,
            `model.onnx`, `onnxruntime-web/` and `embedded.js`, a copy of the model and the
            runtime (about 1.3 times as large) that is loaded only where the page is opened from
            the disk, and otherwise may be deleted.
    """
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("*.xz", "README.md"))
    for packed in PAGE.rglob("*.xz"):
        (folder / packed.relative_to(PAGE)).with_suffix("").write_bytes(
            lzma.decompress(packed.read_bytes())
        )
    shutil.copyfile(onnx, folder / MODEL)
    fields = metadata.to_json()
    told = {name: fields[name] for name in _TOLD}
    (folder / "metadata.js").write_text(f"const METADATA = {json.dumps(told)};\n", encoding="utf-8")
    embedded = {name: _base64(folder / name) for name in _READ}
    text = f"const EMBEDDED = {json.dumps(embedded)};\n"
    (folder / "embedded.js").write_text(text, encoding="utf-8")


def is_page(folder: Path) -> bool:
    """Tell whether a folder is such a page; `embedded.js` may have been deleted."""
    return all((folder / name).is_file() for name in ("app.js", "metadata.js", MODEL))


def _base64(path: Path) -> str:
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
