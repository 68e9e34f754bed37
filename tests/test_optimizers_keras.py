"""Optimizers within Keras: the hooks that `fit` calls, variables, configuration."""

import inspect
import json

import keras
import numpy as np
import pytest
from stepping import GRADIENTS, steps, variables

import resnet_keras
from resnet_keras import Recipe, optimizers
from resnet_keras.optimizers import (
    LAMB,
    LARS,
    OPTIMIZERS,
    SGD,
    AdamW,
    Averaging,
    Optimizer,
    Table,
)


def test_fit_follows_the_same_arithmetic():
    # Keras' compiled training step: loss scale, micro-batches, clipping and average at once.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)).astype("float32"), rng.standard_normal(8).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = SGD(
        Table([0.5, 0.25]), momentum=0.9, weight_decay=0.01, clip_norm=0.5, accumulate=2,
        loss_scale=1024.0, ema=0.5,
    )  # fmt: skip
    model.compile(optimizer, keras.losses.MeanSquaredError(), auto_scale_loss=False)
    w, b, path = model.get_weights()[0][:, 0], 0.0, []
    model.fit(x, y[:, None], batch_size=2, shuffle=False, verbose=0)
    for rows, rate in ((slice(0, 4), 0.5), (slice(4, 8), 0.25)):
        g = 2 * x[rows].T @ (x[rows] @ w - y[rows]) / 4
        g = g / max(1, np.linalg.norm(g) / 0.5) + 0.01 * w
        b = 0.9 * b + g
        w = w - rate * b
        path.append(w)
    assert model.get_weights()[0][:, 0] == pytest.approx(w, abs=1e-6)
    optimizer.swap_averages()
    assert model.get_weights()[0][:, 0] == pytest.approx((path[0] + path[1]) / 2, abs=1e-6)


def line(optimizer):
    """A model y = w . x, compiled with the loss mean(y), and its data: the gradient is 0.5."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
    )
    model.compile(optimizer, lambda y, p: p, auto_scale_loss=False)
    return model, np.full((4, 1), 0.5, "float32"), np.zeros((4, 1), "float32")


class WithoutApply(SGD):
    """What a Keras makes of SGD that calls something else than `apply`."""

    apply = keras.optimizers.Optimizer.apply


class WithoutScaleLoss(SGD):
    """What a Keras makes of SGD that calls something else than `scale_loss`."""

    def scale_loss(self, loss):
        return keras.optimizers.Optimizer.scale_loss(self, loss)


@pytest.mark.parametrize(
    ("optimizer", "missing"),
    [(WithoutApply(0.1), "called `update_step`, not `WithoutApply.apply`"),
     (WithoutScaleLoss(0.1, loss_scale=8.0), "`scale_loss` was not called before `apply`")],
)  # fmt: skip
def test_fit_raises_where_keras_does_not_call_a_hook(optimizer, missing):
    model, x, y = line(optimizer)
    with pytest.raises(RuntimeError, match=missing):
        model.fit(x, y, verbose=0)
    if keras.backend.backend() == "tensorflow":  # on JAX the variables are gone with the step
        assert np.array_equal(model.get_weights()[0], [[1.0]])
        assert float(np.asarray(optimizer.iterations)) == 0


def test_each_step_needs_a_scaled_loss_of_its_own():
    (variable,) = variables(kernel=[1.0])
    optimizer = SGD(1.0, loss_scale=4.0)
    optimizer.build([variable])
    optimizer.scale_loss(np.float32(1))
    optimizer.apply([np.array([1.0])])
    with pytest.raises(RuntimeError, match=r"`scale_loss`.*loss_scale=4.0"):
        optimizer.apply([np.array([1.0])])
    assert float(np.asarray(variable)[0]) == 0.75


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="on TensorFlow a step sees them")
def test_fit_raises_where_jax_would_not_average_the_statistics():
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    model.compile(SGD(0.1, ema=0.75), "mse", auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.also_average(model.non_trainable_variables)
    x = np.zeros((4, 3), "float32")
    with pytest.raises(RuntimeError, match="`averaging_statelessly`.*ema=0.75"):
        model.fit(x, x, verbose=0)


def test_a_variable_without_gradient_keeps_its_value():
    pair = variables(kernel=[1.0], bias=[2.0])
    optimizer = SGD(0.5, momentum=0.5, weight_decay=0.5)
    with pytest.warns(UserWarning, match="no gradient for kernel"):
        optimizer.apply([None, np.array([1.0])], pair)
    assert [float(np.asarray(v)[0]) for v in pair] == [1.0, 1.0]
    with pytest.raises(ValueError, match="Received: None for every variable"):
        optimizer.apply([None, None])


def test_gradients_of_other_variables_are_refused():
    one, other = variables(kernel=[1.0], bias=[2.0])
    optimizer = SGD(0.5)
    with pytest.raises(ValueError, match="not built"):
        optimizer.apply([np.array([1.0])])
    optimizer.build([one])
    with pytest.raises(ValueError, match="1 variables. Received: 2 gradients"):
        optimizer.apply([np.array([1.0])] * 2)
    with pytest.raises(ValueError, match="built with. Received: bias"):
        optimizer.apply([np.array([1.0])], [other])
    assert float(np.asarray(one)[0]) == 1.0


def test_a_variable_whose_gradient_is_its_value_is_refused():
    (variable,) = variables(kernel=[1.0])
    variable.overwrite_with_gradient = True
    with pytest.raises(ValueError, match="float8.*Received: kernel"):
        SGD(0.5).build([variable])


def test_constraints_hold_for_weights_and_averages():
    (variable,) = variables(kernel=[1.0])
    variable.constraint = keras.constraints.NonNeg()
    optimizer = SGD(1.0, ema=0.5)
    path = steps(optimizer, [0.5, 3.0], variable)
    assert path == [0.5, 0.0]
    optimizer.swap_averages()
    assert float(np.asarray(variable)[0]) == 0.25


def test_learning_rate_can_be_set():
    optimizer = SGD(0.5)
    optimizer.learning_rate = 0.25
    assert float(np.asarray(optimizer.learning_rate)) == 0.25
    assert steps(optimizer, [1.0]) == [0.75]
    scheduled = SGD(Table([0.5, 0.25]), accumulate=2)
    assert steps(scheduled, [1.0, 1.0]) == [1.0, 0.5]
    assert float(scheduled.learning_rate) == 0.25
    scheduled.learning_rate = Table([0.5, 0.125])
    assert float(scheduled.learning_rate) == 0.125


@pytest.mark.slow
def test_jax_computes_the_same(run_python):
    done = run_python(
        "-m", "pytest", "-q", __file__, "-k",
        "hand or algorithm or scale or fit or constraints or moves or skips or accumulate",
        KERAS_BACKEND="jax", JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout or "[100%]" in done.stdout


# Of every argument a value that is not its default.
SHARED = {
    "weight_decay": 0.25, "exclude": ("bias",), "clip_norm": 0.5, "clip_value": 0.75,
    "accumulate": 2, "loss_scale": 8.0, "growth_steps": 3, "name": "clone",
    "ema": Averaging(0.75, every=2, copy_steps=1, epoch=4),
}  # fmt: skip


OWN = {
    SGD: {"momentum": 0.75, "nesterov": True},
    LARS: {"momentum": 0.75, "trust_coefficient": 0.125, "epsilon": 0.125},
    LAMB: {"beta_1": 0.75, "beta_2": 0.875, "epsilon": 0.125},
    AdamW: {"beta_1": 0.75, "beta_2": 0.875, "epsilon": 0.125},
}


@pytest.mark.parametrize("kind", OWN)
def test_configuration_makes_the_same_optimizer(kind):
    arguments = SHARED | OWN[kind]
    signature = inspect.signature(Optimizer).parameters | inspect.signature(kind).parameters
    assert {*signature} - {"learning_rate", "arguments"} == {*arguments}
    first = kind(Table([0.5, 0.25]), **arguments)
    again = kind.from_config(json.loads(json.dumps(first.get_config())))
    for name, value in arguments.items():
        assert value != signature[name].default
        assert getattr(first, name) == getattr(again, name) == value
    ends = []
    for optimizer in (first, again):
        pair = variables(kernel=[1.0, -2.0], bias=[0.5])
        optimizer.build(pair)
        for gradients in GRADIENTS[1:] * 2:  # two micro-batches a step
            optimizer.scale_loss(np.float32(1))
            optimizer.apply([8.0 * np.array(g) for g in gradients])
        ends.append([np.array(v).tolist() for v in optimizer.variables + pair])
    assert ends[0] == ends[1]
    assert ends[0][-1] != [0.5]  # it moved


@pytest.mark.parametrize(
    ("kind", "own"),
    [(SGD, ["momentum"]), (LARS, ["momentum"]), (LAMB, ["mean", "square"]),
     (AdamW, ["mean", "square"])],
)  # fmt: skip
def test_names_and_order_of_the_variables_stay(kind, own):
    """Backups hold them by both: with others, a run could not be resumed after an update."""
    momentum = {"momentum": 0.5} if own == ["momentum"] else {}
    optimizer = kind(0.1, accumulate=2, loss_scale=2.0, growth_steps=2, ema=0.5, **momentum)
    names = [variable.path for variable in _built(optimizer).variables]
    slots = [f"kernel_{name}" for name in ("sum", "average")]
    shared = ["iteration", "learning_rate", "updates", *slots, "loss_scale", "good_steps"]
    expected = [*shared, *(f"kernel_{name}" for name in own)]
    assert names == [f"{kind.__name__.lower()}/{name}" for name in expected]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_tells_the_arguments_of_its_class_and_its_moments(name):
    choice = OPTIMIZERS[name]
    kind = getattr(optimizers, choice.name)
    assert kind in OWN and set(choice.arguments) == set(OWN[kind])
    shared = len(_built(Optimizer(0.1)).variables)
    # A column of another optimizer must keep its default.
    for momentum in (0.0, 0.9) if "momentum" in choice.arguments else (0.9,):
        recipe = Recipe(model="resnet18", dataset="cifar10", optimizer=name, momentum=momentum)
        arguments = {argument: getattr(recipe, argument) for argument in choice.arguments}
        kept = len(_built(kind(0.1, **arguments)).variables) - shared
        assert kept == choice.moments(recipe)


def _built(optimizer):
    optimizer.build(variables(kernel=[1.0]))
    return optimizer


def test_every_optimizer_is_public():
    for choice in OPTIMIZERS.values():
        assert getattr(resnet_keras, choice.name) is getattr(optimizers, choice.name)
        assert choice.name in resnet_keras.__all__ and choice.name in dir(optimizers)
    with pytest.raises(AttributeError, match="no attribute 'Adamm'"):
        _ = optimizers.Adamm
