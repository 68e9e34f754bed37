"""A recipe is a row of a table: its columns, what it refuses, its learning rate, its flags."""

import dataclasses
import json
import re
import runpy
from pathlib import Path

import pytest
from runs import refused_in_one_line

from resnet_keras import Recipe
from resnet_keras.errors import InputError
from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.recipe import columns, groups
from resnet_keras.recipe.columns import Column

ROW = Recipe(
    model="resnet50", dataset="imagenet2012", epochs=100, schedule="step", milestones=(30, 60, 90)
)


def test_learning_rate_of_the_imagenet_rows():
    # 1,281,167 images in batches of 256: 5005 steps, as OpenMMLab's logs have them.
    assert ROW.steps_per_epoch(1_281_167) == 5005
    knots = {0: 0.1, 30 * 5005 - 1: 0.1, 30 * 5005: 0.01, 60 * 5005: 1e-3, 90 * 5005: 1e-4}
    for step, rate in knots.items():
        assert ROW.learning_rate_at(step) == pytest.approx(rate)
    assert ROW.learning_rate_at(100 * 5005 - 1) == pytest.approx(1e-4)


def test_cosine_with_warm_up():
    recipe = dataclasses.replace(
        ROW, schedule="cosine", milestones=(), epochs=10, warmup_epochs=2, learning_rate=1.0
    )
    rates = [recipe.learning_rate_at(i, steps_per_epoch=5) for i in range(50)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0 and rates[30] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[49] < 0.002


MMENGINE = json.loads(Path("tests/golden/mmengine_rates.json").read_text())
ROWS = {
    **{f"cifar10_resnet{n}": "cifar10" for n in (18, 34, 50, 101, 152)},
    "cifar100_resnet50": "cifar100",
    **{f"imagenet_resnet{n}": "imagenet" for n in (18, 34, 50, 101, 152)},
    **{f"imagenet_resnetv1d{n}": "imagenet" for n in (50, 101, 152)},
    "imagenet_resnet50_fp16": "imagenet",
    **{f"imagenet_resnet50_rsb_{n}": f"rsb_{n}" for n in ("a1", "a2", "a3")},
}


@pytest.mark.parametrize("name", ROWS)
def test_learning_rates_are_those_that_mmengine_sets(name):
    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    expected = {int(step): rate for step, rate in MMENGINE[ROWS[name]].items()}
    assert max(expected) == recipe.total_steps(recipe_examples(recipe)) - 1
    # mmengine multiplies the current value again and again, which drifts in the last digits.
    found = {step: recipe.learning_rate_at(step) for step in expected}
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("epochs", "rate"), [(600, 0.005), (300, 0.005), (100, 0.008)])
def test_first_and_last_learning_rates_of_resnet_strikes_back(epochs, rate):
    recipe = Recipe(
        model="resnet50", dataset="imagenet2012", optimizer="lamb", batch_size=2048,
        learning_rate=rate, epochs=epochs, schedule="cosine", schedule_unit="epoch",
        min_learning_rate=1e-6, warmup_epochs=5, warmup_start=1e-4,
    )  # fmt: skip
    assert recipe.steps_per_epoch(1_281_167) == 626
    assert (
        recipe.learning_rate_at(0) == rate * 1e-4 and recipe.learning_rate_at(5 * 626 - 1) == rate
    )
    assert recipe.learning_rate_at(10**9) == recipe.learning_rate_at(epochs * 626 - 1) > 1e-6


def recipe_examples(recipe):
    """Training images: those of ImageNet 2012, or of CIFAR."""
    return 1_281_167 if recipe.dataset == "imagenet2012" else 50_000


CIFAR = Recipe(model="resnet20_cifar", dataset="cifar10", batch_size=128, learning_rate=0.1)


def test_learning_rates_of_the_cifar_rows():
    # OpenMMLab: 391 steps an epoch; x.1 at 100 and 150, or x.2 at 60, 120 and 160.
    ten = dataclasses.replace(CIFAR, epochs=200, milestones=(100, 150))
    assert ten.total_steps(50_000) == 200 * 391
    for step, rate in {0: 0.1, 39099: 0.1, 39100: 0.01, 58649: 0.01, 58650: 1e-3}.items():
        assert ten.learning_rate_at(step) == pytest.approx(rate)
    hundred = dataclasses.replace(ten, milestones=(60, 120, 160), milestone_factor=0.2)
    for epoch, rate in {0: 0.1, 59: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 160: 8e-4}.items():
        assert (
            hundred.learning_rate_at(epoch * 391)
            == hundred.learning_rate_at(epoch * 391 + 390)
            == pytest.approx(rate)
        )


def test_learning_rates_of_the_papers_cifar_rows():
    # He et al. 2015, section 4.2: by iterations; 110 layers start with .01 for 400 of them.
    paper = dataclasses.replace(CIFAR, steps=64_000, milestones=(32_000, 48_000))
    assert paper.total_steps(50_000) == 64_000
    assert 163 * 391 < 64_000 < 164 * 391
    knots = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 1e-3, 63_999: 1e-3}
    for step, rate in knots.items():
        assert paper.learning_rate_at(step) == pytest.approx(rate)
    deep = dataclasses.replace(
        paper, warmup_steps=400, warmup_curve="constant", warmup_start=0.1, dataset="anything"
    )
    for step, rate in {**knots, 0: 0.01, 399: 0.01, 400: 0.1}.items():
        assert deep.learning_rate_at(step) == pytest.approx(rate)


TORCH = json.loads(Path("tests/golden/torch_training.json").read_text())


def test_learning_rates_of_600_epochs_are_those_that_torchvision_sets():
    # SequentialLR(LinearLR(start_factor=.01, total_iters=5), CosineAnnealingLR(T_max=595)).
    recipe = runpy.run_path("recipes/imagenet_resnet50_torchvision_v2.py")["RECIPE"]
    steps = recipe.steps_per_epoch(1_281_167)
    assert recipe.total_steps(1_281_167) == 600 * steps
    for first in (0, steps - 1):  # of an epoch, and last
        found = [recipe.learning_rate_at(epoch * steps + first) for epoch in range(600)]
        # PyTorch multiplies the current value again and again, which drifts in the last digits.
        assert found == pytest.approx(TORCH["rates"], rel=1e-9, abs=1e-12)
    assert found[:7] == pytest.approx([0.005, 0.104, 0.203, 0.302, 0.401, 0.5, 0.4999965], rel=1e-6)


def test_a_warm_up_may_end_before_its_peak():
    recipe = dataclasses.replace(
        ROW, schedule="constant", milestones=(), epochs=3, warmup_epochs=2, learning_rate=1.0,
        warmup_peak="after",
    )  # fmt: skip
    rates = [recipe.learning_rate_at(i, steps_per_epoch=2) for i in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])  # equal steps from 0
    from_zero = dataclasses.replace(recipe, warmup_start=0.0)
    rates = [from_zero.learning_rate_at(i, steps_per_epoch=2) for i in range(6)]
    assert rates == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    stairs = dataclasses.replace(from_zero, warmup_curve="stairs")
    rates = [stairs.learning_rate_at(i, steps_per_epoch=2) for i in range(6)]
    assert rates == pytest.approx([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    one = dataclasses.replace(recipe, warmup_epochs=0, warmup_steps=1, warmup_peak="last")
    assert one.learning_rate_at(0, steps_per_epoch=2) == 1.0


def test_poly_and_stairs():
    recipe = dataclasses.replace(
        CIFAR, schedule="poly", power=2.0, epochs=6, learning_rate=1.0, min_learning_rate=0.1,
        warmup_epochs=2, warmup_curve="stairs", warmup_start=0.5,
    )  # fmt: skip
    rates = [recipe.learning_rate_at(i, steps_per_epoch=5) for i in range(30)]
    assert rates[:11] == pytest.approx([0.5] * 5 + [1.0] * 6)
    # mmengine's PolyLR, step by step; 20 steps, of which 19 move it.
    now, expected = 1.0, [1.0]
    for step in range(1, 20):
        now = (now - 0.1) * (1 - 1 / (19 - step + 1)) ** 2 + 0.1
        expected.append(now)
    assert rates[10:] == pytest.approx(expected) and rates[-1] == pytest.approx(0.1)
    by_epoch = dataclasses.replace(recipe, schedule_unit="epoch", power=1.0)
    rates = [by_epoch.learning_rate_at(i, steps_per_epoch=5) for i in range(10, 30)]
    assert rates == pytest.approx([1.0] * 5 + [0.7] * 5 + [0.4] * 5 + [0.1] * 5)


@pytest.mark.parametrize(
    ("change", "field"),
    [({}, None), ({"data_dir": "x", "backup_every": "5", "verbose": False}, None),
     ({"epochs": 120}, None), ({"epochs": 99}, "epochs"), ({"seed": 1}, "seed"),
     ({"epochs": 120, "momentum": 0.5}, "momentum"), ({"steps": 10**6}, "steps"),
     ({"milestones": (30, 60)}, "milestones"), ({"skip_bad": True}, "skip_bad")],
)  # fmt: skip
def test_what_may_change_when_a_run_is_resumed(change, field):
    earlier = json.loads(json.dumps(ROW.to_json()))
    assert dataclasses.replace(ROW, **change).conflict(earlier) == field


def test_a_cosine_cannot_be_prolonged():
    recipe = dataclasses.replace(ROW, schedule="cosine", milestones=())
    assert dataclasses.replace(recipe, epochs=120).conflict(recipe.to_json()) == "epochs"


def test_a_run_without_a_newer_column_is_resumed():
    earlier = {k: v for k, v in ROW.to_json().items() if k not in ("ema", "beta_2", "freeze")}
    assert ROW.conflict(earlier) is None
    assert dataclasses.replace(ROW, ema=0.9).conflict(earlier) == "ema"


def test_a_data_set_of_unknown_size_needs_the_steps():
    recipe = dataclasses.replace(ROW, dataset="imagenette")
    with pytest.raises(InputError, match="steps_per_epoch"):
        recipe.learning_rate_at(0)
    assert recipe.learning_rate_at(0, steps_per_epoch=10) == 0.1


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 0}, {"epochs": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
     {"momentum": 1.0}, {"min_area": 0.0}, {"milestones": (60, 30)}, {"std": (0.0,)},
     {"replicas": 0}, {"padding": -1}, {"batch_size": 255, "replicas": 2}, {"seed": -1},
     {"batch_size": 256, "accumulate": 3}, {"accumulate": 0}, {"label_smoothing": 1.0},
     {"drop_path": -0.1}, {"ema": 1.0}, {"beta_2": 1.0}, {"epsilon": -1.0},
     {"ema_every": 0, "ema": 0.9}, {"trust_coefficient": 0.0, "optimizer": "lars"},
     {"clip_norm": 0.0}, {"loss_scale": 0.0}, {"mixup": -1.0}, {"cutmix": -1.0},
     {"rand_magnitude": 11.0}, {"erasing": 1.5}, {"repeats": 0}, {"freeze": 5},
     {"steps": 0}, {"power": 0.0}, {"min_learning_rate": 1.0},
     {"warmup_start": 2.0}, {"warmup_epochs": 5, "steps": 10}, {"warmup_steps": -1},
     {"schedule_unit": "epoch", "steps": 10}, {"warmup_curve": "stairs", "warmup_epochs": 0.5}],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(change):
    with pytest.raises(InputError, match=f"`{next(iter(change))}` must.*Received: "):
        dataclasses.replace(ROW, **change)


def test_columns_of_augmentation_that_would_have_no_effect_are_refused():
    for changes, said in (
        ({"policy": "trivial_augment_wide", "rand_ops": 2}, "`rand_ops` must keep its default, 0"),
        ({"policy": "trivial"}, "`policy` must be one of trivial_augment_wide, auto_augment"),
        ({"erasing_fill": "mean"}, "`erasing_fill` needs `erasing`: set --erasing"),
        ({"erasing_fill": "grey", "erasing": 0.1}, "`erasing_fill` must be "),
    ):
        with pytest.raises(InputError, match=f"{said}.*Received: "):
            dataclasses.replace(ROW, **changes)
    dataclasses.replace(ROW, policy="auto_augment", erasing_fill="mean", erasing=0.1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "change",
    [{"batch_size": "64"}, {"batch_size": 64.0}, {"batch_size": True}, {"batch_size": None},
     {"model": None}, {"flip": "no"}, {"optimizer": "adam"}, {"exclude": "bias"}, {"run_dir": 3},
     {"mean": (NAN,)}, {"mean": 120.0}, {"std": (INF, 1.0, 1.0)}, {"min_area": "0.1"},
     {"milestones": (30, "60")}, {"milestones": (30.5,)}, {"learning_rate": INF},
     {"beta_1": "0.9"}, {"backup_every": 500}, {"steps": NAN}],
    ids=str,
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(change):
    with pytest.raises(InputError, match=f"`{next(iter(change))}` must be .*Received: "):
        dataclasses.replace(ROW, **change)


def test_strings_become_paths_and_lists_tuples():
    given = {"run_dir": "runs/x", "data_dir": Path("d"), "weights": "w.pth", "mean": [0, 0.5, 1]}
    recipe = dataclasses.replace(ROW, learning_rate=1, **given)
    assert (recipe.run_dir, recipe.data_dir, recipe.weights) == (Path("runs/x"), Path("d"), "w.pth")
    assert recipe.mean == (0, 0.5, 1) and recipe.learning_rate_at(0) == 1
    assert dataclasses.replace(recipe, run_dir=None).run_dir is None


def test_weights_are_a_string_that_json_keeps():
    for weights in ("hf://timm/resnet50.a1_in1k", "runs/quickstart/model.keras", None):
        recipe = dataclasses.replace(ROW, weights=weights)
        read = Recipe(**json.loads(json.dumps(recipe.to_json())))
        assert read == recipe and read.weights == weights
    assert dataclasses.replace(ROW, weights=Path("a") / "w.pth").weights == "a/w.pth"


def test_command_line_changes_a_recipe(run_python, tmp_path):
    row = tmp_path / "row.py"
    row.write_text(
        f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_recipe import ROW\n"
        "print(json.dumps(ROW.parse().to_json()))\n"
    )
    done = run_python(row, "--epochs", "3", "--milestones", "1", "2")
    recipe = json.loads(done.stdout)
    assert (recipe["epochs"], recipe["milestones"], recipe["run_dir"]) == (3, [1, 2], "runs/row")
    assert recipe["learning_rate"] == ROW.learning_rate


@pytest.mark.parametrize(
    "arguments",
    [("--epochs", "0"), ("--epochs", "many"), ("--no-such-flag", "1"), ("--batch-size", "-8"),
     ("--precision", "float8"), ("--replicas", "3", "--batch-size", "64"), ("--epochs",)],
)  # fmt: skip
def test_bad_arguments_are_one_line_and_code_2(run_python, arguments):
    done = run_python("recipes/quickstart.py", *arguments)
    assert arguments[0].lstrip("-").split("-")[0] in refused_in_one_line(done)
    assert not done.stdout


def test_help_needs_no_keras(run_python):
    code = (
        "import runpy, sys; sys.argv = ['recipes/quickstart.py', '--help']\n"
        "try: runpy.run_path('recipes/quickstart.py', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_help_has_a_group_for_each_group_of_columns(run_python):
    done = run_python("recipes/quickstart.py", "--help", COLUMNS="80")
    lines = done.stdout.splitlines()
    assert "handwritten digits" in lines[0] and "    python recipes/quickstart.py" in lines
    assert max(map(len, lines)) <= 80
    headings = re.findall(r"╭─ (\w+) options ─", done.stdout)
    assert headings == ["network", "augmentation", "optimization", "run"]
    for heading, names in zip(headings, groups().values(), strict=True):
        box = done.stdout.split(f"╭─ {heading} options")[1].split("╰")[0]
        flags = re.findall(r"│ --([\w-]+)", box)
        assert flags == [name.replace("_", "-") for name in names]
    # Where lines break depends on the longest flag.
    words = " ".join(done.stdout.replace("│", " ").split())
    assert "SGD, LARS: momentum. (default: 0.9)" in words
    assert f"{{{','.join(OPTIMIZERS)}}}" in words and "(default: cosine)" in words


def test_the_command_line_takes_none_and_empty_lists(run_python, tmp_path):
    row = tmp_path / "row.py"
    row.write_text(
        f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from dataclasses import replace\n"
        "from test_recipe import ROW\n"
        "print(json.dumps(replace(ROW, min_area=0.1, mean=(1.0,)).parse().to_json()))\n"
    )
    flags = ("--schedule", "cosine", "--milestones", "--min-area", "None", "--mean", "None")
    done = run_python(row, *flags, "--std", "1", "2", "3", "--exclude", "bias", "--flip")
    recipe = json.loads(done.stdout)
    assert (recipe["milestones"], recipe["min_area"], recipe["mean"]) == ([], None, None)
    assert (recipe["std"], recipe["exclude"], recipe["flip"]) == ([1, 2, 3], ["bias"], True)


RECIPES = ("quickstart", "fashion_mnist_resnet20", "cifar10_resnet18", "imagenet_resnet50")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_files_are_recipes(name):
    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    assert Recipe(**json.loads(json.dumps(recipe.to_json()))).identity() == recipe.identity()


def test_what_the_machine_settles_is_no_conflict():
    """`train` compares what it came to."""
    for change in ({"precision": "float32"}, {"replicas": 2}):
        changed = dataclasses.replace(ROW, **change)
        assert changed.conflict(ROW.to_json()) is None is ROW.conflict(changed.to_json())
    half = dataclasses.replace(ROW, precision="mixed_float16")
    assert half.conflict(dataclasses.replace(ROW, precision="float32").to_json()) == "precision"


@pytest.mark.parametrize(
    "change",
    [{"seed": 2**32}, {"profile": "1:\N{SUPERSCRIPT TWO}"}, {"backup_every": "often"},
     {"backup_every": "0m"}, {"holdout": -1}, {"holdout": 1_281_167}],
)  # fmt: skip
def test_what_no_run_can_have_is_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=f"`{name}` must be .*Received: {name}={value!r}"):
        dataclasses.replace(ROW, **change)


def test_images_are_held_out_of_a_folder_too():
    recipe = dataclasses.replace(ROW, dataset="folder:images", holdout=0.125)
    assert recipe.to_json()["holdout"] == 0.125 and recipe.examples() is None


def test_a_recipe_inherits_the_groups_in_order():
    assert list(groups()) == ["Network", "Augmentation", "Optimization", "Run"]
    names = [name for group in groups().values() for name in group]
    assert names == [field.name for field in dataclasses.fields(Recipe)] == list(columns())
    assert list(ROW.to_json()) == names


def test_every_column_has_a_sentence_and_its_table_has_its_default():
    for name, column in columns().items():
        assert column.help.endswith((".", "...")) and len(column.help) < 120, name
        if column.choices is OPTIMIZERS:
            assert Recipe(model="resnet50", dataset="x").optimizer in column.choices


@pytest.mark.parametrize(
    ("column", "good", "bad", "rule"),
    [({"above": 0}, 1e-9, 0, "above 0"), ({"at_least": 0}, 0, -1, "0 or more"),
     ({"at_least": 0, "below": 1}, 0, 1, "in [0, 1)"),
     ({"above": 0, "at_most": 1}, 1, 0, "in (0, 1]"),
     ({"at_least": -1, "at_most": 4}, 4, 5, "in [-1, 4]"), ({"above": 0}, None, -1, "above 0"),
     ({"above": 0}, (1, 2), (1, 0), "above 0"), ({"above": 0}, (), (-1,), "above 0"),
     ({"choices": {"a": 1, "b": 2}}, "b", "c", "one of a, b")],
)  # fmt: skip
def test_a_column_says_which_rule_is_broken(column, good, bad, rule):
    column = Column(help="", **column)
    assert column.broken_rule(good) is None and column.broken_rule(bad) == rule


def test_which_columns_are_free_and_which_the_machine_settles():
    rules = {name: column.resume for name, column in columns().items() if column.resume != "same"}
    free = ("data_dir", "run_dir", "backup_every", "logger", "profile", "save_memory", "verbose",
            "dry_run")  # fmt: skip
    assert rules == dict.fromkeys(free, "free") | {"precision": "settled", "replicas": "settled"}
    assert set(ROW.identity()) == set(ROW.to_json()) - set(free)


@pytest.mark.parametrize("field", ["rate_by", "of_a_later_version"])
def test_a_run_with_an_unknown_column_is_not_resumed(field):
    words = rf"unknown field `{field}`.*0\.1\.0 cannot be resumed.*Received: {field}='step'"
    with pytest.raises(InputError, match=words):
        ROW.conflict(ROW.to_json() | {field: "step"})


def test_an_unknown_network_is_refused_with_the_known_ones():
    words = "`model` must be one of resnet18, .*resnet1202_cifar. Received: model='resnet51'"
    with pytest.raises(InputError, match=words):
        Recipe(model="resnet51", dataset="digits")


PLAIN = Recipe(model="resnet50", dataset="imagenet2012")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"optimizer": "lamb", "nesterov": True}, "`nesterov` .*, False, with optimizer='lamb'"),
     ({"optimizer": "lamb", "momentum": 0.5}, "`momentum` .*, 0.9, with optimizer='lamb'"),
     ({"beta_1": 0.95}, "`beta_1` .*optimizer='sgd'"),
     ({"epsilon": 1e-8}, "`epsilon` .*optimizer='sgd'. Received: epsilon=1e-08"),
     ({"momentum": 0.0, "nesterov": True}, "`nesterov` needs `momentum`.*momentum=0.0"),
     *(({"schedule": schedule, field: value}, f"`{field}` .*default.* with schedule='{schedule}'")
       for field, value, schedules in [
           ("milestones", (30,), ("constant", "cosine", "poly")),
           ("milestone_factor", 0.2, ("constant", "cosine", "poly")),
           ("power", 2.0, ("constant", "step", "cosine")),
           ("min_learning_rate", 0.01, ("constant", "step")),
           ("schedule_unit", "epoch", ("constant", "step"))]
       for schedule in schedules),
     ({"trust_coefficient": 0.01}, "`trust_coefficient` .*, 0.001, with optimizer='sgd'"),
     ({"optimizer": "lars", "nesterov": True}, "`nesterov` .*, False, with optimizer='lars'"),
     ({"optimizer": "adamw", "momentum": 0.5}, "`momentum` .*, 0.9, with optimizer='adamw'"),
     ({"ema_every": 2}, "`ema_every` needs `ema`: set --ema. Received: ema_every=2, ema=0.0"),
     ({"ema_after_warmup": True}, "`ema_after_warmup` needs `ema`"),
     ({"warmup_curve": "constant", "warmup_peak": "after"}, "`warmup_peak` .*'last', with warm"),
     ({"quantize": True}, "`quantize` needs `weights`: set --weights.*quantize=True, weights=None"),
     ({"norm_eval": True}, "`norm_eval` needs `weights`"),
     ({"freeze": 0}, "`freeze` needs `weights`: set --weights. Received: freeze=0"),
     ({"exclude": ("gama",)}, "`exclude` must be .*'gama' is in none.*exclude=\\('gama',\\)"),
     ({"exclude": ("bias", "moving_mean")}, "'moving_mean' is in none"),
     ({"exclude": ("conv5_block4",)}, "'conv5_block4' is in none"),
     ({"exclude": ("gamma",), "quantize": True, "weights": "w"}, "'gamma' is in none"),
     ({"mean": ()}, "`mean` must have a number for each channel"),
     ({"std": ()}, "`std` must have a number for each channel")],
    ids=str,
)  # fmt: skip
def test_columns_that_conflict_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
    "change",
    [{"optimizer": "lars", "momentum": 0.5, "trust_coefficient": 0.01, "epsilon": 0.0},
     {"optimizer": "adamw", "beta_1": 0.8, "epsilon": 1e-8}, {"ema": 0.5, "ema_every": 3},
     {"warmup_epochs": 1, "ema": 0.5, "ema_after_warmup": True, "warmup_peak": "after"},
     {"optimizer": "lamb"}, {"optimizer": "lamb", "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.0},
     {"momentum": 0.0}, {"nesterov": True}, {"schedule": "cosine", "min_learning_rate": 0.01},
     {"schedule": "poly", "power": 2.0, "schedule_unit": "epoch"}, {"schedule": "constant"},
     {"milestones": (1, 2), "milestone_factor": 0.5}, {"freeze": 4, "weights": "w"},
     {"quantize": True, "weights": "w", "exclude": ("conv/bias",)},
     {"exclude": ("bias", "gamma", "beta", "conv5_block3", "predictions")}],
    ids=str,
)  # fmt: skip
def test_columns_that_fit_together_are_not_refused(change):
    recipe = dataclasses.replace(PLAIN, **change)
    assert {name: getattr(recipe, name) for name in change} == change


def test_sgd_without_momentum_is_a_recipe():
    from resnet_keras.training.building import optimizer

    config = optimizer(dataclasses.replace(PLAIN, momentum=0.0), 256, "float32").get_config()
    assert (config["name"], config["momentum"], config["nesterov"]) == ("sgd", 0.0, False)
