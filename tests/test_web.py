"""The page in a real browser gives what Keras gives, and loads nothing from elsewhere."""

import base64
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import json
import lzma
import re
import shutil
import threading

import keras
import numpy as np
import pytest
from chromium import Chromium, needs_chromium
from PIL import Image
from sklearn.datasets import load_sample_image

from resnet_keras import SPECS, ResNet, data
from resnet_keras.data.images import decode
from resnet_keras.errors import InputError
from resnet_keras.exporting import BoundMissed, export
from resnet_keras.exporting.web import PAGE
from resnet_keras.model_files import Metadata, open_model_file, read_metadata
from resnet_keras.preprocessing import Preprocessing

NASTY = '<img src=x onerror="document.title=1">&amp;'


@pytest.fixture(scope="module", params=["http", "file"])
def folder(request, digits_run, data_dir, tmp_path_factory):
    """The page of a network of digits, one of which has a name full of HTML.

    Once NCHW, loaded from a file server, and once NHWC, opened from the disk.
    """
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(digits_run / "model.keras", folder)
    metadata = read_metadata(digits_run / "model.keras")
    labels = (*metadata.labels[:3], NASTY, *metadata.labels[4:])
    dataclasses.replace(metadata, labels=labels).write(folder / "model.keras")
    layout = "nchw" if request.param == "http" else "nhwc"
    report = export(
        folder / "model.keras", folder / "page", format="web", layout=layout, data_dir=data_dir
    )
    assert report["kept"] and json.loads((folder / "page.report.json").read_text()) == report
    return folder / "page"


@pytest.fixture(scope="module")
def answered():
    """Paths that were requested from the file server, and the status of each answer."""
    return []


@pytest.fixture(scope="module")
def address(folder, answered):
    """The URL of the page."""
    if folder.parent.name.startswith("file"):
        yield (folder / "index.html").as_uri()
        return

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            answered.append((self.path, int(code)))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def page(address, tmp_path_factory):
    """The page in Chromium, ready."""
    browser = Chromium(
        tmp_path_factory.mktemp("browser") / "profile",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    )
    browser.open(address)
    browser.wait("document.readyState == 'complete' && find('status').textContent == 'Ready.'")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory, data_dir):
    """Twenty test digits: as they are, as PNG, and as large photographs of themselves in JPEG."""
    folder = tmp_path_factory.mktemp("images")
    images, _ = data.Source("digits", "test", data_dir=data_dir).open().arrays
    for i, image in enumerate(images[:20]):
        digit = Image.fromarray(image[..., 0])
        if i < 10:
            digit.save(folder / f"{i:02}.png")
        else:
            sheet = Image.new("RGB", (150, 120))
            sheet.paste(digit.convert("RGB").resize((120, 120), Image.Resampling.BICUBIC), (15, 0))
            sheet.save(folder / f"{i:02}.jpg", quality=95)
    return sorted(folder.iterdir())


def shown_by(page):
    """What the page shows: `(label, percent)` of each class."""
    rows = page.run("Array.from(find('classes').children, row => Array.from(row.children, "
                    "column => column.textContent))")  # fmt: skip
    return [(name, float(score.removesuffix(" %"))) for name, score, _ in rows]


def classify(page, path):
    page.run("find('status').textContent = 'waiting'")
    page.choose("#file", path)
    page.wait("find('status').textContent != 'waiting'")
    return shown_by(page)


@needs_chromium
def test_twenty_images_are_classified_as_by_keras(page, images, digits_run):
    model = open_model_file(digits_run / "model.keras")
    page_labels = [NASTY if i == 3 else label for i, label in enumerate(model.metadata.labels)]
    seen = set()
    for path in images:
        image = data.evaluation_image(data.read_image(path, 1), Preprocessing(8))
        scores = model.predict(image.numpy()[None])[0]
        best = scores.argsort()[::-1][:5]
        shown = classify(page, path)
        assert [name for name, _ in shown] == [page_labels[i] for i in best]
        # To the decimals that are shown: the pixels are the same, of JPEG, too.
        assert np.allclose([score for _, score in shown], 100 * scores[best], atol=0.051)
        assert re.fullmatch(r"\d+\.\d ms", page.run("find('latency').textContent"))
        seen.add(shown[0][0])
    assert len(seen) > 5 and NASTY in seen
    # A label is shown as text, even if it holds HTML.
    assert page.run("document.querySelectorAll('#classes img').length") == 0
    assert page.run("document.title") == "What is in the image?"


@needs_chromium
def test_nothing_is_loaded_from_elsewhere(page, images, address, answered):
    classify(page, images[0])
    page.run("new Promise(resolve => setTimeout(resolve, 100))")
    own = address.removesuffix("index.html")
    foreign = [url for url in page.requests if not url.startswith((own, "blob:", "data:"))]
    assert foreign == [] and page.complaints == []
    assert len(page.requests) > 5
    assert {code for _, code in answered} <= {200, 304}


@needs_chromium
def test_a_file_that_is_no_image_is_named(page, images, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    page.run("find('status').textContent = 'waiting'")
    page.choose("#file", tmp_path / "notes.txt")
    page.wait("find('status').textContent != 'waiting'")
    assert "notes.txt is not an image" in page.run("find('status').textContent")
    assert len(classify(page, images[0])) == 5


@needs_chromium
def test_a_dropped_image(page, images):
    page.run("find('status').textContent = 'waiting'")
    drag = {"items": [], "files": [str(images[1])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.send("Input.dispatchDragEvent", type=kind, x=100, y=200, data=drag)
    page.wait("find('status').textContent != 'waiting'")
    assert page.run("find('image').alt") == images[1].name


@needs_chromium
def test_the_camera(page):
    page.run("find('camera').click()")
    page.wait("find('video').srcObject && find('video').videoWidth > 0")
    page.run("find('classes').replaceChildren()")
    page.wait("find('classes').children.length == 5")
    page.run("find('camera').click()")
    assert page.run("find('video').srcObject === null && find('camera').ariaPressed") == "false"
    assert page.complaints == []


@needs_chromium
def test_the_keyboard_reaches_everything(page):
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(2):
        for kind in ("rawKeyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        reached.append(page.run("document.activeElement.id"))
    assert reached == ["file", "camera"]


@needs_chromium
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_those_of_evaluation(page, interpolation, antialias, kind):
    photograph = load_sample_image("china.jpg")
    how = {"interpolation": interpolation, "antialias": antialias}
    for height, width, resize, size in [
        (427, 640, 256, (224, 224)),  # as ImageNet is evaluated
        (427, 640, None, (32, 32)),
        (301, 200, 229, (224, 224)),
        (40, 30, 32, (48, 48)),  # larger than the image: padding
        (427, 640, 256, (160, 224)),
        (427, 640, None, (60, 50)),  # the height decides,
        (427, 640, None, (20, 47)),  # or the width
        (301, 200, None, (200, 31)),
        (40, 30, 32, (48, 20)),  # padding above and below alone
    ]:
        written = io.BytesIO()
        Image.fromarray(photograph[:height, :width]).save(written, kind)
        expected = data.evaluation_image(
            decode(written.getvalue(), 3), Preprocessing(size, resize, **how)
        )
        metadata = json.dumps({"size": size, "resize": resize, **how})
        text = page.run(f"""(async () => {{
            const bytes = atob("{base64.b64encode(written.getvalue()).decode()}");
            const file = new Blob([Uint8Array.from(bytes, letter => letter.charCodeAt(0))]);
            const image = await opened(file);
            const before = [{{...METADATA}}, channels];
            [channels] = [3, Object.assign(METADATA, {metadata})];
            const pixels = prepared(decoded(image, image.width, image.height));
            channels = before[1];
            Object.assign(METADATA, before[0]);
            return pixels.join();
        }})()""")
        pixels = np.array(text.split(","), np.int32).reshape(*size, 3)
        difference = np.abs(pixels - expected.numpy())
        # One level where a sum lies between two.
        assert difference.max() <= 1 and np.mean(difference > 0) < 1e-3


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_network_of_images_that_are_not_square(images, data_dir, tmp_path, layout):
    keras.utils.set_random_seed(0)
    small = dataclasses.replace(SPECS["resnet18_cifar"], depths=(1, 1), widths=(8, 16))
    network = ResNet(small, input_shape=(12, 20, 1), classes=10)
    # Sure of its classes, so that the first five are far apart.
    kernel, bias = network.get_layer("predictions").get_weights()
    network.get_layer("predictions").set_weights([300 * kernel, bias])
    network.save(tmp_path / "model.keras")
    labels = tuple("0123456789")
    Metadata(Preprocessing((12, 20)), labels, "digits").write(tmp_path / "model.keras")
    export(
        tmp_path / "model.keras", tmp_path / "page", format="web", layout=layout,
        data_dir=data_dir, examples=8,
    )  # fmt: skip
    model = open_model_file(tmp_path / "model.keras")
    browser = Chromium(tmp_path / "profile", "--host-resolver-rules=MAP * ~NOTFOUND")
    browser.open((tmp_path / "page" / "index.html").as_uri())
    browser.wait("document.readyState == 'complete' && find('status').textContent == 'Ready.'")
    for path in images[::5]:
        image = data.evaluation_image(data.read_image(path, 1), Preprocessing((12, 20)))
        scores = model.predict(image.numpy()[None])[0]
        shown = dict(classify(browser, path))
        assert np.allclose(list(shown.values()), 100 * np.sort(scores)[:-6:-1], atol=0.051)
        assert browser.run("[find('seen').width, find('seen').height]") == [20, 12]
    browser.close()


def test_the_runtime_is_the_published_one():
    folder = PAGE / "onnxruntime-web"
    table = dict(re.findall(r"`([\w.-]+)` \| ([0-9a-f]{64})", (folder / "README.md").read_text()))
    assert len(table) == 3
    for name, digest in table.items():
        packed = folder / f"{name}.xz"
        content = lzma.decompress(packed.read_bytes()) if packed.exists() else None
        content = content or (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_a_folder_of_something_else_is_not_replaced(digits_run, data_dir, tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(InputError, match="not an exported page. Received: "):
        export(digits_run / "model.keras", tmp_path, format="web", data_dir=data_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_the_folder_holds(folder):
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert held == {
        "index.html", "style.css", "app.js", "metadata.js", "model.onnx", "embedded.js",
        "onnxruntime-web/ort.wasm.min.js", "onnxruntime-web/ort-wasm-simd-threaded.mjs",
        "onnxruntime-web/ort-wasm-simd-threaded.wasm", "onnxruntime-web/LICENSE",
        "onnxruntime-web/ThirdPartyNotices.txt",
    }  # fmt: skip
    report = json.loads((folder.parent / "page.report.json").read_text())
    assert report["format"] == "web"
    assert report["bytes"] == sum(len((folder / name).read_bytes()) for name in held)
    card = (folder.parent / "page.md").read_text()
    assert 'InferenceSession("page/model.onnx")' in card
    # The page does not tell where its training images were.
    _, _, told = (folder / "metadata.js").read_text().partition("const METADATA = ")
    metadata = json.loads(told.removesuffix(";\n"))
    assert set(metadata) == {"size", "resize", "interpolation", "antialias", "labels", "threshold"}
    assert (metadata["size"], metadata["threshold"]) == ([8, 8], None)
    assert metadata["labels"] == [*"012", NASTY, *"456789"]


def test_what_a_page_from_the_disk_runs_is_what_a_server_gives(folder):
    text = (folder / "embedded.js").read_text().removeprefix("const EMBEDDED = ")
    embedded = json.loads(text.removesuffix(";\n"))
    assert set(embedded) == {"model.onnx"} | {
        f"onnxruntime-web/ort-wasm-simd-threaded.{suffix}" for suffix in ("mjs", "wasm")
    }
    for name, letters in embedded.items():
        packed = base64.b64decode(letters)
        # RFC 1952: no time stamp, so that the same model gives the same page.
        assert packed[:2] == b"\x1f\x8b" and packed[4:8] == bytes(4)
        assert gzip.decompress(packed) == (folder / name).read_bytes()


@pytest.mark.slow
def test_the_page_of_a_kept_and_of_a_refused_model(digits_run, data_dir, tmp_path):
    def again(**options):
        return export(
            digits_run / "model.keras", tmp_path / "page", format="web", data_dir=data_dir,
            examples=8, **options,
        )  # fmt: skip

    report = again(quantize="int8", io="float32", calibrate="digits", bound=0.5)
    assert report["io"] == "float32"
    card = (tmp_path / "page.md").read_text()
    assert 'InferenceSession("page/model.onnx")' in card and "`pixels` is float32" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "page", "page.md", "page.report.json",
    ]  # fmt: skip
    (tmp_path / "page" / "embedded.js").unlink()  # as who serves it may do
    with pytest.raises(BoundMissed, match=f"^{tmp_path}/page was not kept"):
        again(bound=0.0)
    with pytest.raises(InputError, match="`io` of a .onnx file must be uint8 or float32"):
        again(quantize="int8", io="int8")
    assert (tmp_path / "page" / "model.onnx").exists()


def test_a_script_of_the_same_name_makes_no_page(digits_run, data_dir, tmp_path):
    (tmp_path / "embedded.js").write_text("let mine;")
    with pytest.raises(InputError, match="not an exported page. Received: "):
        export(digits_run / "model.keras", tmp_path, format="web", data_dir=data_dir)
    assert (tmp_path / "embedded.js").read_text() == "let mine;"
