"""The report: what it counts, what it shows in a real browser, and what it does not let through."""

import dataclasses
import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from chromium import Chromium, needs_chromium

from resnet_keras import ResNet, data, export
from resnet_keras.errors import InputError
from resnet_keras.evaluation import load_predictions, measures
from resnet_keras.model_files import Metadata, open_model_file, read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.report import model_card, write_report
from resnet_keras.report.attention import grad_cam
from resnet_keras.report.runs import read_run
from resnet_keras.report.text import escape
from resnet_keras.report.verdicts import interval

# Markup, a script, a terminal's escape, a change of direction, half a character, a family.
HOSTILE = "<img src=x onerror=\"document.title='owned'\">&amp;\x1b[31m\u202e\ud800'"


@pytest.mark.parametrize("spec", ["resnet20_cifar", "resnet18_cifar"])
def test_grad_cam_is_the_gradient_of_the_logit(spec):
    keras.utils.set_random_seed(0)
    model = ResNet(spec, classes=4, input_shape=(16, 16, 3))
    for layer in model.layers:  # as if trained: the last gammas begin at 0
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(tf.random.uniform(layer.gamma.shape, 0.5, 1.0, seed=1))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    maps = grad_cam(model, images)
    pool, head = model.layers[-2:]
    stage = keras.Model(model.input, pool.input)
    for label in range(4):
        # Selvaraju et al. 2017, equations 1 and 2, as they are written.
        with tf.GradientTape() as tape:
            outputs = stage(images, training=False)
            tape.watch(outputs)
            logits = tf.reduce_mean(outputs, (1, 2)) @ head.kernel + head.bias
            logit = logits[:, label]
        alpha = tf.reduce_mean(tape.gradient(logit, outputs), (1, 2), keepdims=True)
        expected = tf.nn.relu(tf.reduce_sum(alpha * outputs, -1)).numpy()
        # Rounding is that of the sum's terms, of both signs.
        terms = np.abs(outputs) @ np.abs(head.kernel[:, label]) / np.prod(outputs.shape[1:3])
        np.testing.assert_allclose(maps[..., label], expected, atol=1e-6 * terms.max())
    assert (maps.max(axis=(1, 2)) > 0).any() and (maps == 0).any()


def test_a_network_that_ends_otherwise_has_no_grad_cam():
    inputs = keras.Input((4, 4, 3))
    flat = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    assert grad_cam(keras.Model(inputs, flat), np.zeros((1, 4, 4, 3), np.uint8)) is None


def test_words_of_others_are_no_markup_and_move_no_cursor():
    assert escape("<b>\"x\" & 'y'") == "&lt;b&gt;&quot;x&quot; &amp; &#x27;y&#x27;"
    assert escape("\x1b[2J\n\x7f") == "\u241b[2J\u240a\u2421"
    assert escape("a\u202eb\ud800") == "a\ufffdb\ufffd"
    assert escape("Schäfer 犬 \U0001f415 می\u200cشود") == "Schäfer 犬 \U0001f415 می\u200cشود"


def test_intervals_of_wilson():
    z2 = 1.959964**2
    assert interval(0.0, 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        assert interval(right / n, n) == (
            pytest.approx(low, abs=5e-5),
            pytest.approx(high, abs=5e-5),
        )


def test_a_run_ends_with_its_report(digits_run):
    html = (digits_run / "report.html").read_text()
    results = json.loads((digits_run / "results.json").read_text())
    assert f"{100 * results['top1']:.2f} %" in html and f"{100 * results['ece']:.2f} %" in html
    said = read_run(digits_run).predictions
    matrix = re.findall(r"<title>(\d) right: (\d+) images", html)
    right = said.labels[measures.ranks(said.scores, said.labels) < 1]
    assert {int(name): int(count) for name, count in matrix} == {
        c: int(np.sum(right == c)) for c in range(10)
    }
    wrong = re.findall(r"<title>\d taken for \d: (\d+) images", html)
    assert sum(map(int, wrong)) == round((1 - results["top1"]) * 360)
    # So many mistakes, most confident first.
    shown = re.findall(
        r'said">(\d)</span> <span class="nb">([\d.]+) %</span><br>is <span class="is">(\d)', html
    )
    assert len(shown) == min(24, 360 - len(right)) and all(a != b for a, _, b in shown)
    scores = [float(score) for _, score, _ in shown]
    assert scores == sorted(scores, reverse=True)


def test_predictions_of_another_model_are_not_believed(digits_run, data_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    said = load_predictions(run / "predictions.npz")
    wrong = dataclasses.replace(said, scores=np.roll(said.scores, 1, axis=1), model_file="0" * 64)
    wrong.save(run / "predictions.npz")
    before = (run / "predictions.npz").read_bytes()
    again = read_run(run, data_dir=data_dir).predictions
    np.testing.assert_allclose(again.scores, said.scores, atol=1e-6)
    assert (run / "predictions.npz").read_bytes() == before


def test_an_unfinished_run_has_curves(digits_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.json", "log.csv"):
        shutil.copy(digits_run / name, run / name)
    html = write_report([run]).read_text()
    assert "not finished" in html and "Learning rate" in html and "Confusion" not in html


@pytest.fixture
def other_run(digits_run, tmp_path):
    """The same run, as if of another seed."""
    run = tmp_path / "other"
    shutil.copytree(digits_run, run)
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["seed"] == 0
    (run / "recipe.json").write_text(json.dumps(recipe | {"seed": 7}))
    return run


def test_the_fields_in_which_runs_differ_are_listed_and_no_other(digits_run, other_run, tmp_path):
    html = write_report([digits_run, other_run], out=tmp_path / "x.html").read_text()
    (table,) = re.findall(r"<h3>Side by side</h3>.*?<table>(.*?)</table>", html, re.S)
    head, *rows = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:])
    assert head.index("seed") == len(head) - 1 == head.index("training") + 1
    assert [row[-1] for row in rows] == ["0", "7"]


@pytest.mark.parametrize(
    ("name", "contents"),
    [("recipe.json", None), ("recipe.json", "{"), ("results.json", "[]"),
     ("predictions.npz", "x"), ("x.report.json", "{"), ("results.json", '{"examples": 0}'),
     ("results.json", '{"examples": 5, "top1": "half"}'), ("log.csv", "epoch\n\xe9")],
)  # fmt: skip
def test_what_is_no_run_is_named(digits_run, tmp_path, name, contents):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    (run / "report.html").write_text("earlier")
    (run / name).unlink(missing_ok=True)
    if contents is not None:
        (run / name).write_text(contents, encoding="latin-1")
    with pytest.raises(InputError, match=re.escape(name)):
        write_report([run])
    assert (run / "report.html").read_text() == "earlier"


def front_matter(text):
    """The YAML of a metadata, and its Markdown."""
    _, yaml_text, markdown = text.split("---\n", 2)
    return yaml.safe_load(yaml_text), markdown


@pytest.mark.parametrize(
    "name", ["model.keras", "model.tflite", pytest.param("saved", marks=pytest.mark.slow)]
)
def test_the_code_of_a_card_runs(digits_run, data_dir, tmp_path, name, monkeypatch):
    folder, report = digits_run, json.loads((digits_run / "results.json").read_text())
    if name != "model.keras":
        folder = tmp_path
        report = export(digits_run / "model.keras", folder / name, data_dir=data_dir, examples=16)
    text = model_card(report, read_metadata(folder / name), name)
    known, markdown = front_matter(text)
    assert known["pipeline_tag"] == "image-classification" and known["datasets"] == ["digits"]
    (measured,) = known["model-index"][0]["results"]
    assert measured["metrics"][0]["value"] == pytest.approx(report["top1"], rel=1e-5)
    (code,) = re.findall(r"```python\n(.*?)```", markdown, re.S)
    images, _ = data.Source("digits", "test", data_dir=data_dir).open().arrays
    names = {"pixels": images[:4].astype("float32")}
    monkeypatch.chdir(folder)
    exec(code, names)
    expected = open_model_file(digits_run / "model.keras").predict(images[:4])
    np.testing.assert_allclose(np.asarray(names["scores"]), expected, atol=1e-4)


def test_a_card_says_nothing_of_private_folders_and_takes_no_markup():
    labels = ("---", "a|b", "[x](y)", "line\nend", "\x1b[31m")
    metadata = Metadata(Preprocessing(8, 10), labels=labels, dataset="folder:/home/me/my images")
    report = {"examples": 5, "top1": 0.5, "bytes": 12345, "command": "export `x`"}
    known, markdown = front_matter(model_card(report, metadata, "x.tflite"))
    assert "datasets" not in known and "model-index" not in known and "license" not in known
    assert "/home" not in markdown and "my images" in markdown
    assert "a\\|b" in markdown and "\\[x\\](y)" in markdown and "\x1b" not in markdown
    assert "50.00 %" in markdown and "12,345" in markdown and "short edge becomes 10" in markdown


def test_a_card_of_a_file_that_nobody_measured():
    known, markdown = front_matter(model_card({}, Metadata(Preprocessing(224))))
    assert known["library_name"] == "keras" and "Measured" not in markdown


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests."""
    browser = Chromium(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


def show(browser, url, *, width, theme="light"):
    """Open a page in a window of a width, for a reader who likes a theme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.send("Emulation.setDeviceMetricsOverride", **size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.send("Emulation.setEmulatedMedia", features=features)
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(url)
    browser.wait(f"location.href === {url!r} && document.readyState === 'complete'")


def asked(browser):
    """The addresses that the page asked for; a data: address asks nobody."""
    return [url for url in browser.requests if not url.startswith("data:")]


@pytest.fixture
def hostile_run(digits_run, tmp_path):
    """A run whose words want to do harm."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    said = load_predictions(run / "predictions.npz")
    names = (HOSTILE, "</script><script>document.title='owned'</script>", *said.classes[2:])
    dataclasses.replace(said, classes=names, split=HOSTILE).save(run / "predictions.npz")
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"model": HOSTILE, HOSTILE: [HOSTILE]}))
    report = {"bytes": 5, "max_difference": 1e-6, "top1_agreement": 1.0, "examples": 256}
    (run / "a<b>.tflite.report.json").write_text(json.dumps(report))
    results = json.loads((run / "results.json").read_text())
    results["versions"][HOSTILE] = HOSTILE
    (run / "results.json").write_text(json.dumps(results))
    return run


@needs_chromium
@pytest.mark.parametrize("which", ["one", "two", "hostile"])
def test_the_page_in_a_browser(browser, digits_run, other_run, hostile_run, which, tmp_path):
    runs = {"one": [digits_run], "two": [digits_run, other_run], "hostile": [hostile_run]}[which]
    out = write_report(runs, out=tmp_path / "page" / "x.html")
    assert out.read_bytes().isascii() and b"\x1b" not in out.read_bytes()
    grounds = set()
    for width in (360, 1280):
        for theme in ("light", "dark"):
            show(browser, out.as_uri(), width=width, theme=theme)
            assert browser.run("document.scrollingElement.scrollWidth <= innerWidth")
            ground = "getComputedStyle(document.body).backgroundColor"
            before = browser.run(ground)
            grounds.add((theme, before))
            browser.run("document.querySelector('button').click()")
            assert browser.run(ground) != before
            browser.run("localStorage.clear()")
            assert asked(browser) == [out.as_uri()] and browser.complaints == []
    assert len(grounds) == 2  # one ground a theme, another for each
    assert "owned" not in browser.run("document.title").replace("title='owned'", "")
    images = "[...document.images].map(i => i.naturalWidth > 0)"
    assert browser.run(images) and all(browser.run(images))
    figures = browser.run(
        "[...document.querySelectorAll('figure:has(svg)')].map(f => [f.querySelector('h3')"
        ".textContent, [...f.querySelectorAll('.axis')].map(a => a.textContent)])"
    )
    titles = [title for title, _ in figures]
    assert {"Accuracy", "Loss", "Learning rate"} < set(titles)
    assert {"Accuracy by class", "Confusion", "Reliability"} < set(titles)
    counted = {"epoch", "class", "true class", "class the network says"}  # what has no unit
    for title, labels in figures:
        assert title and len(labels) >= 2
        for label in labels:
            assert label in counted or re.search(r"%|nats|no unit", label), label
    # No word leaves its image.
    assert [] == browser.run(
        "[...document.querySelectorAll('svg[role] text')].filter(t => { const a = "
        "t.getBoundingClientRect(), b = t.closest('svg[role]').getBoundingClientRect(); "
        "return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || "
        "a.bottom > b.bottom + 1; }).map(t => t.textContent)"
    )


@needs_chromium
def test_the_pointer_reads_the_curves(browser, digits_run):
    rows = read_run(digits_run).rows
    show(browser, (digits_run / "report.html").as_uri(), width=1280)
    figure = "document.querySelector('figure:has(.dot)')"

    def shown():
        return browser.run(f"[...{figure}.querySelectorAll('b, .at')].map(e => e.textContent)")

    def values(row):
        return [f"{100 * row['val_accuracy']:.2f} %", f"{100 * row['accuracy']:.2f} %"]

    left, right, y = browser.run(
        f"(() => {{ const b = {figure}.querySelector('.base').getBoundingClientRect(); "
        "return [b.left, b.right, b.top - 9]; })()"
    )
    assert shown() == [*values(rows[-1]), "last epoch"]
    for number in (1, 5, 12):
        x = left + (right - left) * (number - 1) / 11
        browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert shown() == [*values(rows[number - 1]), f"epoch {number}"]
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert shown() == [*values(rows[-1]), "last epoch"] and browser.complaints == []


@needs_chromium
def test_a_browser_would_notice(browser, tmp_path):
    """A page that asks, breaks and overflows is seen to."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><img src='other.png'><div style='width:3000px'>x</div>"
        "<script>throw new Error('broken')</script>"
    )
    show(browser, page.as_uri(), width=360)
    assert (page.parent / "other.png").as_uri() in asked(browser)
    assert "Error: broken" in str(browser.complaints)
    assert not browser.run("document.scrollingElement.scrollWidth <= innerWidth")


def test_a_card_says_what_the_arrays_of_each_file_are():
    def said(name, **report):
        return model_card(report, Metadata(Preprocessing(8), dataset="digits"), name)

    assert "`pixels` is float32, `(batch, 8, 8, channels)`" in said("x.onnx", layout="nhwc")
    assert "`pixels` is float32, `(batch, channels, 8, 8)`" in said("x.onnx", layout="nchw")
    text = said("x.onnx", layout="nchw", io="uint8")
    assert "`pixels` is uint8, `(batch, channels, 8, 8)`" in text and "class, float32" in text
    text = said("x.tflite", io="int8")
    assert "`pixels` is int8" in text and "for each class, int8." in text and "zero point" in text
    assert "zero point" not in said("x.tflite", io="float32")
    assert "the short edge becomes 8 (bilinear, without antialiasing), then the centre" in text


def test_a_card_measured_on_other_images_says_so():
    report = {"examples": 5, "top1": 0.5, "command": "resnet-keras export", "dataset": "digits"}
    text = model_card(report, Metadata(Preprocessing(8), dataset="folder:/home/me"), "x.onnx")
    assert "On 5 test images of digits" in text and "resnet-keras export" not in text
    assert 'name: "digits"' in text
    text = model_card(report, Metadata(Preprocessing(8), dataset="mnist"), "x.onnx")
    assert "By `resnet-keras export`." in text
