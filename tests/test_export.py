"""What leaves the house computes the same, or does not leave."""

import json

import keras
import numpy as np
import pytest

from resnet_keras import evaluate, export
from resnet_keras.artefact import open_artefact
from resnet_keras.export import BoundMissed, compare
from resnet_keras.terminal import InputError


@pytest.fixture(scope="module", params=["model.tflite", "saved_model", "copy.keras"])
def exported(request, digits_run, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / request.param
    return out, export(digits_run / "model.keras", out, data_dir=data_dir)


def test_the_proof(exported):
    out, report = exported
    assert report["max_difference"] < 1e-4 and report["top1_agreement"] == 1
    assert report["examples"] == 256 and report["top1"] == report["top1_source"] > 0.9
    assert json.loads((out.parent / f"{out.name}.report.json").read_text()) == report
    assert (out.parent / f"{out.stem}.json").exists()
    left = {path.name for path in out.parent.iterdir()}
    assert left == {out.name, f"{out.name}.report.json", f"{out.stem}.json"}


def test_only_built_in_operators_and_no_batch_norm(exported):
    out, report = exported
    if out.suffix == ".tflite":
        # 19 convolutions with their batch norm folded in; Rescaling is MUL and ADD.
        assert report["operators"]["CONV_2D"] == 19
        assert not [op for op in report["operators"] if "Flex" in op or "CUSTOM" in op.upper()]


def test_accuracy_is_the_runs(exported, digits_run, data_dir):
    results = json.loads((digits_run / "results.json").read_text())
    measured = evaluate(exported[0], data_dir=data_dir)
    assert {k: measured[k] for k in ("top1", "top5", "examples")} == {
        k: results[k] for k in ("top1", "top5", "examples")
    }


def test_a_wrong_mean_is_refused_and_nothing_is_left(digits_run, data_dir, tmp_path):
    model = keras.saving.load_model(digits_run / "model.keras")

    def sabotage(layer):
        config = layer.get_config()
        if layer.name == "normalise":
            config["offset"] = [v + 0.5 for v in config["offset"]]
        return type(layer).from_config(config)

    wrong = keras.models.clone_model(model, clone_function=sabotage)
    wrong.set_weights(model.get_weights())
    wrong.save(tmp_path / "wrong.keras")
    apart = compare(
        open_artefact(digits_run / "model.keras"),
        open_artefact(tmp_path / "wrong.keras"),
        data_dir=data_dir,
    )
    assert apart["max_difference"] > 1e-2


def test_a_missed_bound_leaves_the_old_file(digits_run, data_dir, tmp_path):
    out = tmp_path / "model.tflite"
    out.write_bytes(b"what was here before")
    with pytest.raises(BoundMissed, match="was not kept"):
        export(digits_run / "model.keras", out, data_dir=data_dir, examples=8, bound=0.0)
    assert out.read_bytes() == b"what was here before"
    report = json.loads((tmp_path / "model.tflite.report.json").read_text())
    assert report["max_difference"] >= report["bound"] == 0.0


@pytest.mark.parametrize("name", ["model.h5", "model.tar.gz"])
def test_other_formats_are_refused(digits_run, tmp_path, name):
    with pytest.raises(InputError, match="OUT ends in"):
        export(digits_run / "model.keras", tmp_path / name)


def test_files_that_are_no_models_are_named(tmp_path):
    for name in ("x.keras", "x.tflite"):
        (tmp_path / name).write_text("<html>")
        with pytest.raises(InputError, match=name):
            open_artefact(tmp_path / name)
    with pytest.raises(InputError, match="no such model file"):
        open_artefact(tmp_path / "missing.keras")


def test_a_batch_of_any_size_is_predicted_alike(exported):
    artefact = open_artefact(exported[0])
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 1), dtype=np.uint8)
    whole = artefact.predict(images)
    for i in range(5):
        assert np.abs(artefact.predict(images[i : i + 1]) - whole[i]).max() < 1e-5
