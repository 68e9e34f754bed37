"""Images with several labels, from a CSV file to the files that are exported."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from chromium import Chromium, needs_chromium
from PIL import Image
from sklearn import metrics
from sklearn.datasets import load_digits

from resnet_keras import Recipe, augmentations, evaluate, quantize, train
from resnet_keras.data import Source
from resnet_keras.errors import InputError
from resnet_keras.evaluation import load_predictions, measures, predict
from resnet_keras.exporting import export
from resnet_keras.losses import CrossEntropy, DecisionAccuracy, positive_weights
from resnet_keras.model_files import Metadata, open_model_file, read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.report import model_card, write_report

DIGITS = load_digits()


def scenes(root, counts, kinds=10):
    """Write scenes of 16 x 16 pixels with up to four digits, and the CSV file that lists them.

    Args:
        root: an empty folder.
        counts: of the scenes, by split; no digit is in two splits.
        kinds: only digits below this.
    """
    rng = np.random.default_rng(0)
    usable = rng.permutation(np.flatnonzero(DIGITS.target < kinds))
    parts = dict(zip(counts, np.array_split(usable, len(counts)), strict=True))
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "scenes.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "labels", "split"))
        for split, count in counts.items():
            for i in range(count):
                canvas = np.zeros((16, 16), np.uint8)
                chosen = rng.choice(parts[split], rng.integers(0, 5))
                for place, digit in zip(rng.permutation(4), chosen, strict=False):
                    y, x = 8 * (place // 2), 8 * (place % 2)
                    canvas[y : y + 8, x : x + 8] = DIGITS.images[digit] * 15.9
                Image.fromarray(canvas).save(root / f"{split}{i}.png")
                labels = "|".join(f"digit {DIGITS.target[d]}" for d in chosen)
                writer.writerow((f"{split}{i}.png", labels, split))
    return f"csv:{root / 'scenes.csv'}"


def recipe(folder, dataset, **columns):
    defaults = dict(
        model="resnet20_cifar", train_size=16, eval_size=16, batch_size=50, learning_rate=0.05,
        epochs=2, schedule="cosine", precision="float32", verbose=False, logger="none",
        run_dir=folder,
    )  # fmt: skip
    return Recipe(dataset=dataset, **{**defaults, **columns})


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A short training on three labels, with all that mixes and weighs them."""
    root = tmp_path_factory.mktemp("short")
    dataset = scenes(root / "data", {"train": 200, "val": 60, "test": 60}, kinds=3)
    columns = dict(mixup=0.2, cutmix=1.0, label_smoothing=0.1, class_weights="balanced")
    return train(recipe(root / "run", dataset, **columns))


# ------------------------------------------------------------------------------------ measures


def random_case(seed):
    """Scores with many ties, and labels, of 40 images and 5 classes."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 12, (40, 5)) / 11).astype(np.float32)
    return scores, (rng.random((40, 5)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_measures_are_scikit_learns(seed):
    scores, labels = random_case(seed)
    each = [measures.average_precision(*pair) for pair in zip(scores.T, labels.T, strict=True)]
    expected = metrics.average_precision_score(labels, scores, average=None)
    assert each == pytest.approx(expected)
    assert measures.mean_average_precision(scores, labels) == pytest.approx(expected.mean())
    predicted = measures.decided(scores, 0.4)
    found = measures.decisions(scores, labels, 0.4)
    for name, score in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        expected = score(labels, predicted, average="macro", zero_division=0)
        assert getattr(found, f"macro_{name}") == pytest.approx(expected)
    assert found.micro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert found.f1 == pytest.approx(metrics.f1_score(labels, predicted, average=None))


def test_labels_that_no_image_has_are_left_out():
    scores, labels = random_case(0)
    labels[:, 2] = 0
    others = [0, 1, 3, 4]
    expected = metrics.average_precision_score(labels[:, others], scores[:, others])
    assert measures.mean_average_precision(scores, labels) == pytest.approx(expected)
    assert measures.average_precision(scores[:, 2], labels[:, 2]) is None
    found = measures.decisions(scores, labels, 0.5)
    predicted = measures.decided(scores, 0.5)
    expected = metrics.f1_score(labels[:, others], predicted[:, others], average="macro")
    assert found.f1[2] is None and found.macro_f1 == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_no_threshold_is_better_than_the_best(seed):
    scores, labels = random_case(seed)
    best = measures.best_threshold(scores, labels)
    levels = np.unique(scores.astype(np.float64))
    candidates = np.append((levels[1:] + levels[:-1]) / 2, levels[0] / 2)

    def f1(threshold):
        return metrics.f1_score(labels, scores >= threshold, average="micro")

    highest = max(map(f1, candidates))
    equal = [t for t in candidates if f1(t) == pytest.approx(highest, abs=1e-12)]
    assert f1(best) == pytest.approx(highest, abs=1e-12)
    assert best == pytest.approx(min(equal, key=lambda t: abs(t - 0.5)))


def test_of_equally_good_thresholds_the_one_nearest_a_half_is_taken():
    # Between .2 and .9 all cuts separate perfectly: the middle of these two is the only candidate.
    scores = np.array([[0.9, 0.1], [0.2, 0.9]], np.float32)
    assert measures.best_threshold(scores, np.eye(2)) == pytest.approx(0.55)
    # Right at .8 | .6 (F1 2/3) and at .6 | .1 (F1 2 x 1 / (2 + 1)): .35 is nearer than .7.
    scores, labels = np.array([[0.8], [0.7], [0.1]]), np.array([[0], [1], [0]])
    assert measures.best_threshold(scores, labels) == pytest.approx(0.4)
    assert measures.best_threshold(np.full((2, 2), 0.3), np.ones((2, 2))) == pytest.approx(0.15)


# ------------------------------------------------------------------------- loss, metric, mixing


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_keras_summed_over_the_labels(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6, 4)).astype(np.float32)
    labels = (rng.random((6, 4)) < 0.5).astype(np.float32)
    loss = CrossEntropy(sigmoid=True, multi_label=True, label_smoothing=smoothing)
    stock = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
    assert float(loss(labels, logits)) == pytest.approx(4 * float(stock(labels, logits)), rel=1e-5)
    config = keras.losses.serialize(loss)
    assert keras.losses.deserialize(config).get_config() == loss.get_config()
    with pytest.raises(ValueError, match="`multi_label` needs `sigmoid`"):
        CrossEntropy(multi_label=True)


def test_weights_count_for_positives_alone_and_balance_them():
    logits, labels = np.float32([[0.5, -2.0]]), np.float32([[1, 0]])
    loss = CrossEntropy(sigmoid=True, multi_label=True, class_weights=(3.0, 5.0))
    by_hand = 3 * np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-2.0))
    assert float(loss(labels, logits)) == pytest.approx(by_hand, rel=1e-6)
    assert positive_weights(np.array([25, 50, 0, 100]), 100) == (3, 1, 100, 0.01)


def test_pytorch_has_the_same_loss():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (6, 4)).astype(np.float32)
    targets, weights = rng.random((6, 4), np.float32), rng.random(4, np.float32)
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights), reduction="sum")
    expected = float(theirs(torch.tensor(logits), torch.tensor(targets))) / 6
    ours = CrossEntropy(sigmoid=True, multi_label=True, class_weights=weights)
    assert float(ours(targets, logits)) == pytest.approx(expected, rel=1e-5)


def test_the_accuracy_is_the_share_of_right_decisions():
    metric = DecisionAccuracy()
    metric.update_state(
        np.float32([[1, 0, 0.6], [0, 1, 0.4]]), np.float32([[2, 1, 1], [-1, 3, -2]])
    )
    assert float(metric.result()) == pytest.approx(5 / 6)
    metric.update_state(np.float32([[1, 1, 1]]), np.float32([[-1, -1, -1]]), sample_weight=[0])
    assert float(metric.result()) == pytest.approx(5 / 6)


@pytest.mark.parametrize("columns", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixing_mixes_rows_of_labels_as_it_mixes_images(columns):
    """Of a white image and a black one the mean of the first tells its share."""
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[0] = 255
    labels = np.float32([[1, 0, 1], [0, 0, 1]])
    recipe = Recipe(model="resnet20_cifar", dataset="x", **columns)
    mixed, rows = augmentations.mix(
        tf.constant(images), tf.constant(labels), tf.constant([1, 2]), recipe, classes=3
    )
    share = mixed[0].numpy().mean() / 255
    assert 0 < share < 1
    assert rows[0].numpy() == pytest.approx([share, 0, 1], abs=0.005)


# ---------------------------------------------------------------------------------- a training


def test_a_run_says_and_writes_how_good_its_labels_are(short, capfd):
    results = json.loads((short / "results.json").read_text())
    predictions = load_predictions(short / "predictions.npz")
    scores, labels, threshold = predictions.scores, predictions.labels, predictions.threshold
    assert labels.shape == (60, 3) and predictions.classes == ("digit 0", "digit 1", "digit 2")
    split = Source(f"csv:{short.parent / 'data' / 'scenes.csv'}").open()
    assert np.array_equal(labels, split.numbers)
    assert results["map"] == pytest.approx(metrics.average_precision_score(labels, scores))
    micro = metrics.f1_score(labels, scores >= threshold, average="micro")
    assert results["micro_f1"] == pytest.approx(micro)
    assert results["per_class"].keys() == {"digit 0", "digit 1", "digit 2"}
    for name in ("top1", "top5", "balanced_accuracy", "ece", "nll", "confusion"):
        assert results[name] is None
    assert threshold == results["threshold"] == read_metadata(short / "model.keras").threshold
    assert results["threshold_on"] == "val"
    # A sigmoid for each label: softmax' rows would sum to 1.
    assert (
        keras.saving.load_model(short / "model.keras").layers[-1].activation.__name__ == "sigmoid"
    )
    assert train(Recipe(**json.loads((short / "recipe.json").read_text()))) == short
    said = capfd.readouterr().out
    assert re.search(
        r"is finished: mAP [\d.]+ %, macro F1 [\d.]+ %, micro F1 [\d.]+ % at threshold 0\.\d\d "
        r"of 60 test images",
        said,
    )


def test_the_threshold_is_the_best_on_the_validation_images(short):
    found = evaluate(short / "model.keras", split="val", save=short.parent / "val.npz")
    val = load_predictions(short.parent / "val.npz")
    assert val.threshold == measures.best_threshold(val.scores, val.labels)
    others = [measures.decisions(val.scores, val.labels, t).micro_f1 for t in np.linspace(0, 1, 99)]
    assert found["micro_f1"] >= max(others)


def test_predict_gives_all_labels_above_the_threshold(short, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for i in range(20):
        shutil.copy(short.parent / "data" / f"test{i}.png", folder / f"{i:02}.png")
    model = open_model_file(short / "model.keras")
    pixels = np.stack(
        [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    )
    scores = model.predict(pixels)
    # In the middle of the scores, so that images have none, some and all of the labels.
    middle = float(np.median(scores))
    model = dataclasses.replace(
        model, metadata=dataclasses.replace(model.metadata, threshold=middle)
    )
    answers = predict(model, folder, top=1)
    for answer, row in zip(answers, scores, strict=True):
        got = [best["score"] for best in answer["predictions"]]
        assert got == pytest.approx(sorted((s for s in row if s >= middle), reverse=True), abs=1e-6)
        assert {best["label"] for best in answer["predictions"]} == {
            f"digit {i}" for i in np.flatnonzero(row >= middle)
        }
    assert len({len(answer["predictions"]) for answer in answers}) > 1


@pytest.mark.slow
def test_an_image_without_labels_is_shown_as_one(short, tmp_path, run_python):
    model = tmp_path / "model.keras"
    shutil.copy(short / "model.keras", model)
    metadata = read_metadata(short / "model.keras")
    dataclasses.replace(metadata, threshold=1.0).write(model)
    image = str(short.parent / "data" / "test0.png")
    done = run_python("-m", "resnet_keras", "predict", model, image, "--out", tmp_path / "out.csv")
    assert done.returncode == 0 and "none" in done.stdout, done.stderr
    with open(tmp_path / "out.csv", newline="") as file:
        assert list(csv.reader(file)) == [["path", "rank", "label", "score"], [image, "", "", ""]]


def test_the_report_shows_labels_and_the_card_the_threshold(short):
    html = write_report([short]).read_text()
    assert "mAP of 60 test images" in html and "average precision" in html
    assert "Confusion" not in html and "right decisions, %" in html
    both = write_report([short, short], out=short.parent / "both.html").read_text()
    assert "micro F1" in both
    metadata = read_metadata(short / "model.keras")
    card = model_card({"map": 0.5, "decision_agreement": 0.995, "examples": 60}, metadata)
    assert "any number of 3 labels" in card and f"{metadata.threshold:.6g} or more" in card
    assert "| mAP | 50.00 % |" in card and "99.50 %" in card


def test_one_class_and_several_labels_do_not_mix(short, colour_run, tmp_path):
    several = f"csv:{short.parent / 'data' / 'scenes.csv'}"
    with pytest.raises(InputError, match=r"has no `threshold`.*any number of labels.*csv:"):
        evaluate(colour_run / "model.keras", dataset=several)
    with pytest.raises(InputError, match="gives an image any number of labels, an image of folder"):
        evaluate(short / "model.keras", dataset=f"folder:{colour_run / 'images'}")
    with pytest.raises(InputError, match="a temperature is for one class per image"):
        evaluate(short / "model.keras", calibrate_on="val")


def test_a_threshold_is_a_probability_and_may_be_missing(tmp_path):
    Metadata(Preprocessing(8), threshold=0.25).write(tmp_path / "model.keras")
    assert read_metadata(tmp_path / "model.keras").threshold == 0.25
    fields = json.loads((tmp_path / "model.json").read_text())
    for wrong in (1.5, -1, "0.5", True, [0.5]):
        (tmp_path / "model.json").write_text(json.dumps(fields | {"threshold": wrong}))
        with pytest.raises(InputError, match="does not describe a model"):
            read_metadata(tmp_path / "model.keras")
    del fields["threshold"]
    (tmp_path / "model.json").write_text(json.dumps(fields))
    assert not read_metadata(tmp_path / "model.keras").multi_label


@pytest.mark.slow
def test_without_validation_images_the_threshold_is_said_to_be_of_the_test_images(tmp_path, capfd):
    dataset = scenes(tmp_path / "data", {"train": 60, "test": 20}, kinds=2)
    run = train(recipe(tmp_path / "run", dataset, epochs=1))
    said = capfd.readouterr().err
    assert "a sigmoid for each of 2 labels" in said
    assert "the threshold is chosen on the test images themselves" in said
    assert json.loads((run / "results.json").read_text())["threshold_on"] == "test"


# ----------------------------------------------------------------------------------- exports


def exported(run, out, **options):
    """The report of an export, and the largest difference from Keras on 20 test scenes."""
    report = export(run / "model.keras", out, examples=60, **options)
    assert report["kept"]
    return report


def test_a_file_decides_as_its_model_and_knows_the_threshold(short, tmp_path):
    report = exported(short, tmp_path / "model.tflite")
    assert report["measure"] == "max_difference" and report["decision_agreement"] == 1
    assert report["top1_agreement"] is None
    assert report["map"] == pytest.approx(report["map_source"], abs=1e-6)
    (tmp_path / "model.json").unlink()
    opened = open_model_file(tmp_path / "model.tflite")
    assert opened.metadata.threshold == read_metadata(short / "model.keras").threshold


def test_bounds_of_int8_are_of_decisions():
    from resnet_keras.exporting.prove import reason_to_refuse

    report = {"decision_agreement": 0.98, "max_difference": 0.1, "examples": 60}
    said = reason_to_refuse(report, "decision_agreement", 0.99)
    assert said == "98.00 % of its decisions about 60 images are the same, not 99.00 % or more"
    assert reason_to_refuse(report, "decision_agreement", 0.98) is None


@pytest.mark.parametrize(
    ("activation", "suffix"),
    [
        ("sigmoid", ".tflite"),
        *(pytest.param("sigmoid", s, marks=pytest.mark.slow) for s in (".onnx", ".keras")),
        *(pytest.param(None, s, marks=pytest.mark.slow) for s in (".tflite", ".onnx", ".keras")),
        *(pytest.param("relu", s, marks=pytest.mark.slow) for s in (".tflite", ".onnx", ".keras")),
    ],
)
def test_heads_keep_their_activation(activation, suffix, colour_run, tmp_path):
    """Sigmoids that sum to more than 1, and outputs that are no probabilities at all."""
    trained = keras.saving.load_model(colour_run / "model.keras", compile=False)
    config = trained.get_config()
    config["layers"][-1]["config"]["activation"] = activation
    model = keras.Model.from_config(config)
    model.set_weights(trained.get_weights())
    model.save(tmp_path / "model.keras")
    shutil.copy(colour_run / "model.json", tmp_path / "model.json")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    expected = model.predict(images.astype(np.float32), verbose=0)
    assert abs(expected.sum(axis=1) - 1).min() > 1e-3
    out = tmp_path / f"out{suffix}"
    report = export(tmp_path / "model.keras", out, examples=32, bound=1e-3)
    assert report["kept"]
    assert np.allclose(open_model_file(out).predict(images), expected, atol=1e-3)


@pytest.mark.slow
def test_fine_tuning_for_int8_keeps_the_sigmoid(colour_run):
    trained = keras.saving.load_model(colour_run / "model.keras", compile=False)
    clone = quantize.quantization_aware(trained)
    back = quantize.dequantized(clone, "sigmoid")
    assert quantize.head_activation(back) == "sigmoid"
    assert quantize.head_activation(trained) == "softmax"
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    got = quantize.with_probabilities(clone, quantize.head_activation(back))(images)
    assert np.allclose(got, keras.ops.sigmoid(clone(images)), atol=1e-6)


@needs_chromium
def test_the_page_shows_all_labels_above_the_threshold(short, tmp_path):
    shutil.copytree(short, tmp_path / "run")
    metadata = read_metadata(short / "model.keras")
    model = open_model_file(short / "model.keras")
    files = [short.parent / "data" / f"test{i}.png" for i in range(8)]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    scores = model.predict(pixels)
    # One image has none of the labels: that with the lowest of the highest scores.
    middle = float(np.sort(scores.max(axis=1))[:2].mean())
    dataclasses.replace(metadata, threshold=middle).write(tmp_path / "run" / "model.keras")
    export(tmp_path / "run" / "model.keras", tmp_path / "web", examples=8, format="web")
    browser = Chromium(tmp_path / "profile")
    browser.open((tmp_path / "web" / "index.html").as_uri())
    browser.wait("document.readyState == 'complete' && find('status').textContent == 'Ready.'")
    assert "any number in an image" in browser.run("find('about').textContent")
    counts = []
    for path, row in zip(files, scores, strict=True):
        browser.run("find('status').textContent = 'waiting'")
        browser.choose("#file", path)
        browser.wait("find('status').textContent != 'waiting'")
        shown = browser.run("Array.from(document.querySelectorAll('.name'), e => e.textContent)")
        expected = sorted(np.flatnonzero(row >= middle), key=lambda i: -row[i])
        assert shown == [f"digit {i}" for i in expected]
        counts.append(len(shown))
        if not shown:
            assert browser.run("find('classes').textContent") == "none"
            assert browser.run("find('status').textContent") == f"{path.name}: none"
    browser.close()
    assert counts.count(0) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "columns"),
    [
        ("jax", {}),
        ("jax", {"replicas": 2}),
        ("tensorflow", {"replicas": 2}),
        ("tensorflow", {"quantize": True, "start": True}),
        ("tensorflow", {"freeze": 3, "skip_head": True, "start": True}),
        ("tensorflow", {"freeze": 3, "start": True, "precision": "mixed_bfloat16"}),
    ],
    ids=["jax", "jax two", "two", "int8", "features", "half"],
)
def test_several_labels_in_every_kind_of_training(short, run_python, tmp_path, backend, columns):
    own = json.loads((short / "recipe.json").read_text())
    fields = own | {"run_dir": str(tmp_path / "run")} | columns
    if fields.pop("start", False):
        fields |= {"weights": str(short / "model.keras"), "mixup": 0.0, "cutmix": 0.0}
    code = "import json, sys; from resnet_keras import Recipe, train;"
    code += "train(Recipe(**json.loads(sys.argv[1])))"
    done = run_python("-c", code, json.dumps(fields), KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    assert ("computing the features" in done.stderr) == ("freeze" in columns)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    found = load_predictions(tmp_path / "run" / "predictions.npz")
    expected = metrics.average_precision_score(found.labels, found.scores)
    assert results["map"] == pytest.approx(expected)
    # By chance it is the share of the scenes that have a label.
    assert results["map"] > found.labels.mean() + 0.1 and 0 < results["threshold"] < 1


@pytest.mark.slow
def test_a_network_learns_several_labels_and_its_files_decide_alike(tmp_path):
    """Scenes of up to four of ten digits; no digit of the test scenes is in a training scene."""
    dataset = scenes(tmp_path / "data", {"train": 2000, "val": 300, "test": 300})
    run = train(recipe(tmp_path / "run", dataset, epochs=8, weight_decay=5e-4, nesterov=True))
    results = json.loads((run / "results.json").read_text())
    assert results["map"] >= 0.95 and results["micro_f1"] > 0.88
    ways = {
        "int8.tflite": {"quantize": "int8"},
        "dynamic.tflite": {"quantize": "dynamic"},
        "int8.onnx": {"quantize": "int8"},
        "model.onnx": {},
        "saved": {},
        "web": {"format": "web"},
    }
    split = Source(dataset, "test").open()
    images = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in split.paths])
    expected = open_model_file(run / "model.keras").predict(images) >= results["threshold"]
    for name, options in ways.items():
        report = export(run / "model.keras", run / name, examples=300, **options)
        assert report["kept"] and report["decision_agreement"] >= 0.99
        file = run / name / "model.onnx" if name == "web" else run / name
        opened = open_model_file(file)
        assert np.mean((opened.predict(images) >= results["threshold"]) == expected) >= 0.99
        if name == "int8.tflite":
            assert evaluate(opened, dataset=dataset)["map"] > results["map"] - 0.01
    told = (run / "web" / "metadata.js").read_text()
    assert f'"threshold": {results["threshold"]}' in told
    serve = tf.saved_model.load(str(run / "saved")).signatures["serve_bytes"]
    answer = serve(image_bytes=tf.constant([Path(split.paths[0]).read_bytes()]))
    chosen = answer["classes"].numpy()[answer["chosen"].numpy()]
    names = [split.labels[i] for i in np.flatnonzero(expected[0])]
    assert sorted(word.decode() for word in chosen) == names
    html = write_report([run]).read_text()
    assert "agreement of decisions" in html
