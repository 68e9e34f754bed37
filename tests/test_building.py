"""What a recipe builds is what its columns say."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest

from resnet_keras import SGD, Recipe
from resnet_keras.errors import InputError
from resnet_keras.losses import CrossEntropy
from resnet_keras.optimizers import OPTIMIZERS, Averaging
from resnet_keras.quantize import Int8Conv2D, Int8Dense
from resnet_keras.training import building, memory

RECIPE = Recipe(
    model="resnet20_cifar", dataset="digits", train_size=8, eval_size=8, batch_size=4, steps=3,
    learning_rate=0.5, schedule="step", milestones=(2,), weight_decay=0.25, exclude=("bias",),
    clip_norm=2.0, accumulate=2, ema=0.75,
)  # fmt: skip

# Values of the columns that are one optimizer's own; no other optimizer takes them.
OWN = {
    "momentum": 0.375, "nesterov": True, "beta_1": 0.125, "beta_2": 0.625, "epsilon": 0.5,
    "trust_coefficient": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_has_its_columns(name):
    own = {column: OWN[column] for column in OPTIMIZERS[name].arguments}
    recipe = dataclasses.replace(RECIPE, optimizer=name, **own)
    optimizer = building.optimizer(recipe, examples=12, policy="float32")
    config = optimizer.get_config()
    shared = ("weight_decay", "exclude", "clip_norm", "accumulate", "ema")
    for column in (*shared, *OPTIMIZERS[name].arguments):
        assert config[column] == getattr(recipe, column)
    assert config["loss_scale"] is config["growth_steps"] is None
    rates = config["learning_rate"]["config"]["learning_rates"]
    assert rates == pytest.approx([0.5, 0.5, 0.05])


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, 0.75),
     ({"ema_every": 4}, Averaging(0.75, every=4, epoch=3)),
     ({"ema_after_warmup": True}, Averaging(0.75, copy_steps=6, epoch=3)),
     ({"ema_every": 2, "ema_after_warmup": True, "warmup_epochs": 1.5, "accumulate": 1},
      Averaging(0.75, every=2, copy_steps=4, epoch=3)),
     ({"steps": 9, "epochs": 1, "warmup_epochs": 0, "warmup_steps": 5, "ema_after_warmup": True},
      Averaging(0.75, copy_steps=5, epoch=3)),
     ({"ema": 0.0}, 0.0)],
    ids=str,
)  # fmt: skip
def test_an_average_moves_as_the_columns_say(change, expected):
    # Batches of 4 of 12 images: 3 steps an epoch. Micro-batches are no steps.
    recipe = dataclasses.replace(
        RECIPE, **{"steps": None, "epochs": 9, "warmup_epochs": 2} | change
    )
    optimizer = building.optimizer(recipe, examples=12, policy="float32")
    assert optimizer.ema == expected and type(optimizer.ema) is type(expected)


@pytest.mark.parametrize(
    ("asked", "scale", "growth"), [(None, 32768.0, 2000), (512.0, 512.0, None)]
)
def test_float16_scales_the_loss(asked, scale, growth):
    recipe = dataclasses.replace(RECIPE, loss_scale=asked)
    optimizer = building.optimizer(recipe, examples=12, policy="mixed_float16")
    assert (optimizer.loss_scale, optimizer.growth_steps) == (scale, growth)


class Images:
    """What `compiled` asks of a split."""

    channels, labels, examples, multi_label = 1, tuple("0123456789"), 12, False


def test_a_compiled_model_has_its_loss_and_optimizer_and_may_be_without_momentum():
    recipe = dataclasses.replace(
        RECIPE, momentum=0.0, loss="sigmoid", label_smoothing=0.25, ema=0.0, accumulate=1
    )
    model, metrics = building.compiled(recipe, Images, "float32", replicas=1, fresh=True)
    assert isinstance(model.loss, CrossEntropy)
    assert (model.loss.sigmoid, model.loss.label_smoothing) == (True, 0.25)
    assert isinstance(model.optimizer, SGD) and model.optimizer.momentum == 0
    # Iterations and updates: no momentum, no averages, no sums.
    assert len(model.optimizer.variables) == 2
    assert [metric.name for metric in metrics] == ["accuracy"]
    with_momentum = dataclasses.replace(recipe, momentum=0.5)
    needs = [memory.estimate(r, model, "float32").fixed for r in (recipe, with_momentum)]
    assert needs == [2 * 4 * model.count_params(), 3 * 4 * model.count_params()]


@pytest.mark.parametrize("quantize", [True, False])
def test_int8_in_mind_the_layers_round_as_int8_does(quantize):
    recipe = dataclasses.replace(RECIPE, quantize=quantize, weights="run/model.keras")
    model, _ = building.compiled(recipe, Images, "float32", replicas=1, fresh=False)
    rounding = [layer for layer in model.layers if isinstance(layer, Int8Conv2D | Int8Dense)]
    assert len(rounding) == (20 if quantize else 0)  # 19 convolutions and the head


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_loss_weighs_the_classes_as_the_recipe_asks(loss):
    class Unequal(Images):
        counts = np.array([1, 2, 3])

    for asked, expected in (("none", None), ("balanced", (2.0, 1.0, 2 / 3))):  # 6 / (3 x count)
        recipe = dataclasses.replace(RECIPE, loss=loss, class_weights=asked)
        made = building.loss(recipe, Unequal)
        assert made.sigmoid == (loss == "sigmoid")
        assert made.class_weights == (expected and pytest.approx(expected))


def test_averages_are_of_weights_and_statistics():
    model, _ = building.compiled(RECIPE, Images, "float32", replicas=1, fresh=True)
    averages = [v for v in model.optimizer.variables if v.name.endswith("average")]
    floats = [*model.trainable_variables, *model.non_trainable_variables]
    floats = [v for v in floats if "float" in v.dtype]
    assert [tuple(v.shape) for v in averages] == [tuple(v.shape) for v in floats]


@pytest.mark.parametrize(("backend", "expected"), [("tensorflow", (True, 2)), ("jax", (False, 1))])
def test_on_jax_each_replica_has_the_statistics_of_the_whole_batch(monkeypatch, backend, expected):
    """There a batch is one array; elsewhere its parts must be put together."""
    asked = {}

    def build(name, **arguments):
        asked.update(arguments)
        raise ValueError("seen")

    monkeypatch.setattr("resnet_keras.models.build", build)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    recipe = dataclasses.replace(RECIPE, sync_batch_norm=True)
    with pytest.raises(InputError, match="^seen$"):
        building.network(recipe, channels=1, classes=10, replicas=2)
    norm = asked["norm"].keywords
    assert (norm["synchronized"], norm["replicas"]) == expected


class Averaged:
    """A model on JAX, whose step takes and gives states, and its optimizer."""

    non_trainable_variables = ("mean", "variance")

    def __init__(self):
        self.optimizer, self.asked, self.announced = self, None, False

    @contextlib.contextmanager
    def averaging_statelessly(self):
        self.announced = True
        yield
        self.announced = False

    def train_step(self, state, data):
        assert self.announced and (state, data) == (("t0", "n0", "o0", "m0"), "images")
        return "logs", ("t1", ["m", "v"], "o1", "m1")

    def average_statelessly(self, before, after, values):
        assert not self.announced
        self.asked = before, after, values
        return "averaged"


def test_on_jax_a_step_is_followed_by_the_averages_of_the_statistics(monkeypatch):
    model = Averaged()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    building.average_statistics_on_jax(model)
    answer = model.train_step(("t0", "n0", "o0", "m0"), "images")
    assert answer == ("logs", ("t1", ["m", "v"], "averaged", "m1"))
    mean, variance = model.non_trainable_variables
    assert model.asked == ("o0", "o1", {id(mean): "m", id(variance): "v"})
