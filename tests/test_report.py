"""The report and the model card: their numbers, the page in a browser, and hostile text."""

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
from resnet_keras.evaluation import Predictions, load_predictions, measures
from resnet_keras.model_files import Metadata, open_model_file, read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.report import model_card, with_predictions, write_report
from resnet_keras.report.activation_maps import grad_cam
from resnet_keras.report.charts import lines
from resnet_keras.report.predictions import accuracy_section, wilson_interval
from resnet_keras.report.runs import read_run
from resnet_keras.report.text import escape, escape_code, escape_markdown

# Markup, a script, an escape sequence, a bidirectional override, half of a surrogate pair.
HOSTILE = "<img src=x onerror=\"document.title='owned'\">&amp;\x1b[31m\u202e\ud800'"


def test_numbers_at_an_axis_do_not_reach_its_label():
    chart = lines({"rate": [(1, 5e-4), (2, 0)]}, x_label="x", y_label="y", show=str, low=0.0)
    number = r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]*)'
    ends = {text: float(x) for x, text in re.findall(number, chart)}
    assert "0.0004" in ends
    # The label, turned, is 12 units wide around 12; a digit of the numbers is 6 units wide.
    assert all(x - 6 * len(text) > 18 for text, x in ends.items())


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


def test_a_network_with_another_ending_has_no_grad_cam():
    inputs = keras.Input((4, 4, 3))
    flat = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    assert grad_cam(keras.Model(inputs, flat), np.zeros((1, 4, 4, 3), np.uint8)) is None


def test_other_people_s_text_is_neither_markup_nor_control_characters():
    assert escape("<b>\"x\" & 'y'") == "&lt;b&gt;&quot;x&quot; &amp; &#x27;y&#x27;"
    assert escape("\x1b[2J\n\x7f") == r"\x1b[2J\n\x7f"
    assert escape("a\u202eb\ud800") == r"a\u202eb\ud800"
    assert escape("Schäfer 犬 \U0001f415 می\u200cشود") == "Schäfer 犬 \U0001f415 می\u200cشود"
    assert escape_markdown("a_b [x](y) <i>|`\\\n") == r"a_b \[x\](y) \<i\>\|\`\\\\n"
    assert escape_code("`x|\x1b`") == r"'x|\x1b'"


def test_wilson_s_intervals():
    z2 = 1.959964**2
    assert wilson_interval(0.0, 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        assert wilson_interval(right / n, n) == (
            pytest.approx(low, abs=5e-5),
            pytest.approx(high, abs=5e-5),
        )


def test_a_run_ends_with_its_report(digits_run):
    html = (digits_run / "report.html").read_text()
    results = json.loads((digits_run / "results.json").read_text())
    assert f"{100 * results['top1']:.2f} %" in html and f"{100 * results['ece']:.2f} %" in html
    predictions = read_run(digits_run).predictions
    matrix = re.findall(r"<title>(\d) right: (\d+) images", html)
    places = measures.ranks(predictions.scores, predictions.labels)
    right = predictions.labels[places < 1]
    assert {int(name): int(count) for name, count in matrix} == {
        c: int(np.sum(right == c)) for c in range(10)
    }
    wrong = re.findall(r"<title>\d predicted as \d: (\d+) images", html)
    assert sum(map(int, wrong)) == round((1 - results["top1"]) * 360)
    # All mistakes, or the first 24 of them, the most confident first.
    shown = re.findall(
        r'd">(\d)</span> <span class="nb">([\d.]+) %</span><br>label <span class="true">(\d)', html
    )
    assert len(shown) == min(24, 360 - len(right)) and all(a != b for a, _, b in shown)
    scores = [float(score) for _, score, _ in shown]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("confidence", "right", "word"), [(0.9, 3, "overconfident"), (0.6, 9, "underconfident")]
)
def test_the_page_tells_over_from_underconfidence(confidence, right, word):
    """Ten images of one confidence, of which `right` are right."""
    labels = np.arange(10) >= right
    saved = Predictions(
        scores=np.float32([[confidence, 1 - confidence]] * 10), labels=labels.astype(np.int64),
        classes=("a", "b"), dataset="d", split="test", model_sha256="", paths=None,
        shown=np.zeros(0, np.int64), images=np.zeros((0, 4, 4, 3), np.uint8),
    )  # fmt: skip
    html = accuracy_section(saved)
    summary = f"Mean confidence {100 * confidence:.2f} %, top-1 {10 * right}.00 %: {word}."
    assert summary in html
    assert f"accuracy {10 * right}.0 %, mean confidence {100 * confidence:.1f} %" in html
    assert re.findall('class="(overconfident|underconfident)"', html) == [word]
    # The gap's rectangle has the height of the difference, as the bar that of the smaller.
    (bar,) = re.findall(r'class="bar"[^>]* height="([\d.]+)"', html)
    (gap,) = re.findall(rf'class="{word}"[^>]* height="([\d.]+)"', html)
    smaller = min(confidence, right / 10)
    difference = abs(confidence - right / 10)
    assert float(gap) / float(bar) == pytest.approx(difference / smaller, rel=0.01)


@pytest.mark.slow
def test_predictions_of_another_model_are_not_used(digits_run, data_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    saved = load_predictions(run / "predictions.npz")
    rolled = np.roll(saved.scores, 1, axis=1)
    wrong = dataclasses.replace(saved, scores=rolled, model_sha256="0" * 64)
    wrong.save(run / "predictions.npz")
    before = (run / "predictions.npz").read_bytes()
    assert read_run(run).predictions is None
    again = with_predictions(read_run(run), data_dir=data_dir).predictions
    np.testing.assert_allclose(again.scores, saved.scores, atol=1e-6)
    assert again.split == "test"
    assert (run / "predictions.npz").read_bytes() == before
    # An open split is used as it is.
    some = data.Source("digits", "train[:50]", data_dir=data_dir).open()
    few = with_predictions(read_run(run), some).predictions
    assert few.split == "train[:50]" and few.labels.tolist() == some.arrays[1].tolist()
    html = write_report([run], test=some).read_text()
    assert "All 50 images of digits, split train[:50]." in html
    colour = dataclasses.replace(some, channels=3)
    with pytest.raises(InputError, match="takes images of 1 channels, digits has 3"):
        with_predictions(read_run(run), colour)


def test_the_recipe_is_shown_by_group_with_what_differs_from_the_default(digits_run):
    groups = read_run(digits_run).grouped()
    assert list(groups) == ["Network", "Augmentation", "Optimization", "Run"]
    fields = {name: (group, *rest) for group, rows in groups.items() for name, *rest in rows}
    assert set(fields) == set(json.loads((digits_run / "recipe.json").read_text()))
    assert fields["model"] == ("Network", "resnet20_cifar", True)
    assert fields["mean"] == ("Network", [127.5], True)
    assert fields["padding"] == ("Augmentation", 1, True)
    assert fields["exclude"] == ("Optimization", [], False)
    assert fields["epochs"] == ("Optimization", 12, True)
    assert fields["seed"] == ("Run", 0, False)


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
    assert head.index("seed") == len(head) - 1 == head.index("training time") + 1
    assert [row[-1] for row in rows] == ["0", "7"]


@pytest.mark.parametrize(
    ("name", "contents"),
    [("recipe.json", None), ("recipe.json", "{"), ("results.json", "[]"),
     ("predictions.npz", "x"), ("x.report.json", "{"), ("results.json", '{"examples": 0}'),
     ("results.json", '{"examples": 5, "top1": "half"}'), ("log.csv", "epoch\n\xe9")],
)  # fmt: skip
def test_the_damaged_file_of_a_run_is_named(digits_run, tmp_path, name, contents):
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
    """The YAML of a model card, and its Markdown."""
    _, yaml_text, markdown = text.split("---\n", 2)
    return yaml.safe_load(yaml_text), markdown


@pytest.mark.parametrize(
    "name", ["model.keras", "model.tflite", pytest.param("saved", marks=pytest.mark.slow)]
)
def test_the_code_of_a_model_card_runs(digits_run, data_dir, tmp_path, name, monkeypatch):
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


def test_a_model_card_names_no_private_folder_and_escapes_markup():
    labels = ("---", "a|b", "[x](y)", "line\nend", "\x1b[31m")
    metadata = Metadata(Preprocessing(8, 10), labels=labels, dataset="folder:/home/me/my images")
    report = {"examples": 5, "top1": 0.5, "bytes": 12345, "command": "export `x`"}
    known, markdown = front_matter(model_card(report, metadata, "x.tflite"))
    assert "datasets" not in known and "model-index" not in known and "license" not in known
    assert "/home" not in markdown and "my images" in markdown
    assert "a\\|b" in markdown and "\\[x\\](y)" in markdown and "\x1b" not in markdown
    assert (
        "50.00 %" in markdown
        and "12,345" in markdown
        and "edge to 10 pixels (bilinear, without" in markdown
    )


def test_a_model_card_of_a_file_that_nobody_measured():
    known, markdown = front_matter(model_card({}, Metadata(Preprocessing(224))))
    assert known["library_name"] == "keras" and "Measured" not in markdown
    assert "Lines for other programs are in docs/clients.md" in markdown


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all tests."""
    browser = Chromium(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


def show(browser, url, *, width, theme="light"):
    """Open a page in a window of this width, with this theme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.send("Emulation.setDeviceMetricsOverride", **size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.send("Emulation.setEmulatedMedia", features=features)
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(url)
    browser.wait(f"location.href === {url!r} && document.readyState === 'complete'")


def asked(browser):
    """The URLs that the page requested; a data: URL requests nothing."""
    return [url for url in browser.requests if not url.startswith("data:")]


@pytest.fixture
def hostile_run(digits_run, tmp_path):
    """A run with hostile text in each of its files."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    saved = load_predictions(run / "predictions.npz")
    script = "</script><script>document.title='owned'</script>"
    names = (HOSTILE, script, *saved.classes[2:])
    dataclasses.replace(saved, classes=names, split=HOSTILE).save(run / "predictions.npz")
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"model": HOSTILE, HOSTILE: [HOSTILE]}))
    report = {"bytes": 5, "max_difference": 1e-6, "top1_agreement": 1.0, "examples": 256}
    (run / "a<b>.tflite.report.json").write_text(json.dumps(report))
    results = json.loads((run / "results.json").read_text())
    results["versions"][HOSTILE] = HOSTILE
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_a_page_replaces_no_model_file(digits_run, tmp_path):
    model = tmp_path / "model.keras"
    model.write_bytes(b"weights")
    for out in (model, tmp_path, tmp_path / "page"):
        with pytest.raises(InputError, match="`out` must be an .html file. Received: out="):
            write_report([digits_run], out=out)
    assert model.read_bytes() == b"weights" and not (tmp_path / "page").exists()


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
    assert len(grounds) == 2  # one background for each theme
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
    unitless = {"epoch", "class", "true class", "predicted class"}
    for title, labels in figures:
        assert title and len(labels) >= 2
        for label in labels:
            assert label in unitless or re.search(r"%|nats|no unit", label), label
    # No text is cut off at the edge of its chart.
    assert [] == browser.run(
        "[...document.querySelectorAll('svg[role] text')].filter(t => { const a = "
        "t.getBoundingClientRect(), b = t.closest('svg[role]').getBoundingClientRect(); "
        "return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || "
        "a.bottom > b.bottom + 1; }).map(t => t.textContent)"
    )


@needs_chromium
def test_the_legend_shows_the_values_at_the_pointer(browser, digits_run):
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
def test_the_browser_reports_requests_errors_and_overflow(browser, tmp_path):
    """What the tests above assert of good pages is seen to fail on a bad one."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><img src='other.png'><div style='width:3000px'>x</div>"
        "<script>throw new Error('broken')</script>"
    )
    show(browser, page.as_uri(), width=360)
    assert (page.parent / "other.png").as_uri() in asked(browser)
    assert "Error: broken" in str(browser.complaints)
    assert not browser.run("document.scrollingElement.scrollWidth <= innerWidth")


def test_a_model_card_describes_the_arrays_of_each_kind_of_file():
    def card(name, **report):
        return model_card(report, Metadata(Preprocessing(8), dataset="digits"), name)

    assert "`pixels` is float32, `(batch, 8, 8, channels)`" in card("x.onnx", layout="nhwc")
    assert "`pixels` is float32, `(batch, channels, 8, 8)`" in card("x.onnx", layout="nchw")
    text = card("x.onnx", layout="nchw", io="uint8")
    assert "`pixels` is uint8, `(batch, channels, 8, 8)`" in text and "class, float32" in text
    text = card("x.tflite", io="int8")
    assert "`pixels` is int8" in text and "for each class, int8." in text and "zero point" in text
    assert "zero point" not in card("x.tflite", io="float32")
    assert "just cover 8 x 8 (bilinear, without antialiasing), then crop the central 8 x 8" in text


def test_a_model_card_names_the_images_it_was_measured_on():
    report = {"examples": 5, "top1": 0.5, "command": "resnet-keras export", "dataset": "digits"}
    text = model_card(report, Metadata(Preprocessing(8), dataset="folder:/home/me"), "x.onnx")
    assert "On 5 test images of digits" in text and "resnet-keras export" not in text
    assert 'name: "digits"' in text
    text = model_card(report, Metadata(Preprocessing(8), dataset="mnist"), "x.onnx")
    assert "Command: `resnet-keras export`" in text
