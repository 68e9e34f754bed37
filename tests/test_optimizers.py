"""SGD and AdamW follow PyTorch's arithmetic, LARS and LAMB their papers, LAMB also timm.

Nothing moves where it must not.
"""

import inspect
import math

import numpy as np
import pytest
from stepping import BAD, GRADIENTS, TORCH, steps, variables

from resnet_keras.optimizers import (
    LAMB,
    LARS,
    SGD,
    AdamW,
    Table,
)

# In a process of its own, because the float type is a setting of the whole process.
STEPS = """
import sys, tempfile
import keras, numpy as np

keras.config.set_floatx("float64")
sys.path.insert(0, "tests")
from parity import PARITY, meta, save_state
from resnet_keras import SGD, ResNet
from resnet_keras.layers import BatchNormalization
from resnet_keras.optimizers import Table
from resnet_keras.weights import load_weights

golden = "resnet18_cifar10_b8"
reference = np.load(PARITY / f"{golden}.npz")
model = ResNet("resnet18_cifar", include_preprocessing=False, classifier_activation=None,
               norm=BatchNormalization)
with tempfile.TemporaryDirectory() as folder:
    save_state(golden, folder + "/state.safetensors")
    load_weights(model, folder + "/state.safetensors")
images = np.random.default_rng(1).standard_normal(meta(golden)["input_shape"]).astype("float32")
images = images.transpose(0, 2, 3, 1).astype("float64")
model.compile(SGD(Table([0.01, 0.01, 0.001, 0.001]), momentum=0.9, weight_decay=1e-4),
              keras.losses.SparseCategoricalCrossentropy(from_logits=True))
losses = [model.train_on_batch(images, reference["labels"]) for _ in range(4)]
assert np.abs(np.array(losses) - reference["losses"]).max() < 1e-10, losses

def ours(key):
    stem = "backbone.bn1." in key
    layer = "conv1_bn" if stem else "predictions"
    name = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
            "running_var": "moving_variance"}[key.rpartition(".")[2]]
    return np.array(getattr(model.get_layer(layer), name).numpy())

for name in ("weight", "bias", "running_mean", "running_var"):
    key = "backbone.bn1." + name
    assert np.abs(ours(key) - reference["final/" + key]).max() < 1e-10, key
"""


@pytest.mark.slow
def test_four_steps_of_resnet18_are_pytorchs(run_python):
    done = run_python("-c", STEPS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("nesterov", [False, True])
def test_three_steps_by_hand(nesterov):
    w, b, expected = 1.0, 0.0, []
    for gradient, rate in zip((0.5, -0.2, 0.1), (0.1, 0.1, 0.01), strict=True):
        g = gradient + 0.01 * w
        b = 0.9 * b + g
        w -= rate * (g + 0.9 * b if nesterov else b)
        expected.append(w)
    ours = SGD(Table([0.1, 0.1, 0.01]), momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    # Rates are float32 here.
    assert steps(ours, (0.5, -0.2, 0.1)) == pytest.approx(expected, rel=1e-7)


def test_excluded_parameters_do_not_decay():
    assert steps(SGD(0.1, weight_decay=0.5, exclude=("kernel",)), [0.0]) == [1.0]
    assert steps(SGD(0.1, weight_decay=0.5, exclude=("gamma",)), [0.0]) == pytest.approx([0.95])


def lamb_by_hand(kernel, bias, gradients, rate, decay, max_norm=1.0):
    """You et al. 2019, algorithm 2, and what timm adds: see the docstring of LAMB."""
    weights, moments = [np.array(kernel), np.array(bias)], [[0.0, 0.0], [0.0, 0.0]]
    for t, pair in enumerate(gradients, start=1):
        norm = math.sqrt(sum(float(np.sum(np.square(g))) for g in pair))
        for place, g in enumerate(pair):
            g = np.array(g) / max(1.0, norm / max_norm)
            m, v = moments[place]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            moments[place] = [m, v]
            r = m / (1 - 0.9**t) / (np.sqrt(v) / math.sqrt(1 - 0.999**t) + 1e-6)
            w = weights[place]
            if place == 0:  # the kernel decays, and so has a trust ratio
                r = r + decay * w
                r = r * np.linalg.norm(w) / np.linalg.norm(r)
            weights[place] = w - rate * r
    return weights


def test_lamb_is_the_algorithm():
    pair = variables(kernel=[1.0, -2.0], bias=[0.5])
    optimizer = LAMB(Table([0.005]), weight_decay=0.02)
    optimizer.build(pair)
    for gradients in GRADIENTS:
        optimizer.apply([np.array(g) for g in gradients])
    expected = lamb_by_hand([1.0, -2.0], [0.5], GRADIENTS, 0.005, 0.02)
    for ours, theirs in zip(pair, expected, strict=True):
        assert np.asarray(ours) == pytest.approx(theirs, rel=1e-7)  # rates are float32


def test_lamb_of_zeros_takes_adams_step():
    # The norm of the parameter is 0, so the trust ratio is 1; Adam's first step is the rate.
    path = steps(LAMB(0.125, weight_decay=0.1), [0.5], start=0.0)
    assert path == pytest.approx([-0.125], rel=1e-5)  # epsilon


# Ten steps in float64; the learning rates are numbers that float32 holds exactly.
RATES = [0.5, 0.5, 0.25, 0.25, 0.25, 1.0, 0.125, 0.125, 0.0625, 0.0625]


SHAPES = {
    "conv_kernel": (3, 3, 2, 4), "wide_kernel": (1, 1, 5, 7), "head_kernel": (6, 3),
    "norm_gamma": (4,), "norm_beta": (4,), "head_bias": (3,), "zero_kernel": (2, 3),
    "still_kernel": (2,), "scalar_kernel": (),
}  # fmt: skip


def drawn():
    """Start values and ten gradients of each shape; some are zeros."""
    rng = np.random.default_rng(0)
    start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    start["zero_kernel"] *= 0
    gradients = [
        {name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in RATES
    ]
    for number, gradient in enumerate(gradients):
        gradient["still_kernel"] *= 0  # never moves but by its decay
        if number == 4:  # a batch without a gradient
            gradient["conv_kernel"] *= 0
    return start, gradients


def ten_steps(optimizer, start, gradients):
    """The values after each step of an optimizer."""
    pairs = variables(**start)
    optimizer.build(pairs)
    path = []
    for gradient in gradients:
        optimizer.apply([gradient[name] for name in start])
        path.append({n: np.array(v) for n, v in zip(start, pairs, strict=True)})
    return path


def lars_by_hand(start, gradients, *, decay, momentum, trust, epsilon, exclude):
    """You et al. 2017, algorithm 1; MLPerf's reference leaves the excluded ones out of both."""
    weights = dict(start)
    velocity, path = {name: 0.0 for name in start}, []
    for rate, gradient in zip(RATES, gradients, strict=True):
        for name, w in weights.items():
            g, local, beta = gradient[name], 1.0, 0.0
            if not any(word in name for word in exclude):
                beta = decay
                size, slope = (math.sqrt(float(np.sum(np.square(x)))) for x in (w, g))
                if size > 0 and slope > 0:
                    local = trust * size / (slope + beta * size + epsilon)
            velocity[name] = momentum * velocity[name] + rate * local * (g + beta * w)
            weights[name] = w - velocity[name]
        path.append(dict(weights))
    return path


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.0}, {"decay": 0.0}, {"epsilon": 0.5, "trust": 0.25}, {"exclude": ()}],
    ids=str,
)
def test_ten_steps_of_lars_are_the_algorithm(settings):
    settings = {
        "decay": 0.125, "momentum": 0.9, "trust": 0.001, "epsilon": 0.0,
        "exclude": ("bias", "gamma", "beta"), **settings,
    }  # fmt: skip
    start, gradients = drawn()
    optimizer = LARS(
        Table(RATES), momentum=settings["momentum"], trust_coefficient=settings["trust"],
        weight_decay=settings["decay"], epsilon=settings["epsilon"], exclude=settings["exclude"],
    )  # fmt: skip
    expected = lars_by_hand(start, gradients, **settings)
    for ours, theirs in zip(ten_steps(optimizer, start, gradients), expected, strict=True):
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=1e-12, abs=1e-12), name
    # What is excluded, or has no norm, takes the step of SGD: hundreds of times as long.
    moved = {name: np.abs(expected[0][name] - start[name]).max() for name in start}
    if settings["trust"] == 0.001 and settings["exclude"]:
        assert min(moved["norm_gamma"], moved["zero_kernel"]) > 100 * moved["conv_kernel"]


def test_the_defaults_of_lars_are_mlperfs():
    optimizer = LARS()
    assert (optimizer.trust_coefficient, optimizer.momentum, optimizer.epsilon) == (0.001, 0.9, 0)
    assert (optimizer.weight_decay, optimizer.exclude) == (5e-5, ("bias", "gamma", "beta"))


def adamw_by_hand(start, gradients, *, decay, betas, epsilon, exclude):
    """The pseudocode in the documentation of `torch.optim.AdamW`."""
    weights, path = dict(start), []
    moments = {name: (0.0, 0.0) for name in start}
    for t, (rate, gradient) in enumerate(zip(RATES, gradients, strict=True), start=1):
        for name, w in weights.items():
            g = gradient[name]
            if not any(word in name for word in exclude):
                w = w - rate * decay * w
            m, v = moments[name]
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
            moments[name] = m, v
            m, v = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
            weights[name] = w - rate * m / (np.sqrt(v) + epsilon)
        path.append(dict(weights))
    return path


@pytest.mark.parametrize(
    "settings",
    [{}, {"decay": 0.0}, {"betas": (0.0, 0.5)}, {"epsilon": 0.25}, {"exclude": ("gamma", "beta")}],
    ids=str,
)
def test_ten_steps_of_adamw_are_the_algorithm(settings):
    settings = {"decay": 0.125, "betas": (0.9, 0.999), "epsilon": 1e-8, "exclude": (), **settings}
    start, gradients = drawn()
    optimizer = AdamW(
        Table(RATES), weight_decay=settings["decay"], beta_1=settings["betas"][0],
        beta_2=settings["betas"][1], epsilon=settings["epsilon"], exclude=settings["exclude"],
    )  # fmt: skip
    expected = adamw_by_hand(start, gradients, **settings)
    for ours, theirs in zip(ten_steps(optimizer, start, gradients), expected, strict=True):
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=1e-12, abs=1e-12), name


def test_ten_steps_of_adamw_are_those_of_pytorch_by_the_same_algorithm():
    draws = np.random.default_rng(1).standard_normal((11, 6))
    draws[3] = 0
    optimizer = AdamW(0.125, weight_decay=0.25, beta_2=0.99)
    path = ten_steps(optimizer, {"kernel": draws[-1]}, [{"kernel": draw} for draw in draws[:10]])
    found = [step["kernel"] for step in path]
    assert np.abs(np.array(found) - TORCH["adamw"]).max() < 1e-12


def test_the_defaults_of_sgd_and_lamb():
    """SGD has Keras' learning rate and nothing else; LAMB is that of "ResNet strikes back", A2."""
    plain = SGD()
    assert float(np.asarray(plain.learning_rate)) == pytest.approx(0.01)
    assert (plain.momentum, plain.nesterov, plain.weight_decay) == (0, False, 0)
    assert (plain.clip_norm, plain.clip_value, plain.accumulate, plain.ema) == (None, None, 1, 0)
    assert (plain.loss_scale, plain.growth_steps, plain.exclude) == (None, None, ())
    assert (plain.name, LAMB().name, LARS(name="mine").name) == ("sgd", "lamb", "mine")
    lamb = LAMB()  # table 2: learning rate 5e-3; epsilon, betas and the norm are timm's
    assert float(np.asarray(lamb.learning_rate)) == pytest.approx(0.005)
    assert (lamb.beta_1, lamb.beta_2, lamb.epsilon) == (0.9, 0.999, 1e-6)
    assert (lamb.weight_decay, lamb.clip_norm) == (0.01, 1.0)
    assert lamb.exclude == ("bias", "gamma", "beta")
    assert float(np.asarray(LARS().learning_rate)) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [SGD, LARS, LAMB, AdamW])
def test_limits_of_arguments_are_allowed(kind):
    """0 where 0 is in the range, and 1 micro-batch; nothing else changes."""
    edges = {"weight_decay": 0, "accumulate": 1, "growth_steps": 1, "ema": 0}
    names = inspect.signature(kind).parameters
    edges |= {n: 0 for n in ("momentum", "beta_1", "beta_2", "epsilon") if n in names}
    assert kind(0.0, **edges).get_config()["weight_decay"] == 0
    for name in ("weight_decay", "epsilon"):
        if name in names or name == "weight_decay":
            with pytest.raises(ValueError, match=f"`{name}` must be >= 0"):
                kind(0.1, **{name: -1e-9})
    for name in ("clip_norm", "clip_value", "loss_scale"):
        for wrong in (0, math.inf):
            with pytest.raises(ValueError, match=f"`{name}` must be above 0"):
                kind(0.1, **{name: wrong})
        assert getattr(kind(0.1, **{name: 0.5}), name) == 0.5
    with pytest.raises(ValueError, match="`growth_steps` must be 1 or more"):
        kind(0.1, growth_steps=0)
    with pytest.raises(ValueError, match="`learning_rate` must be >= 0"):
        kind(math.inf)


def test_the_defaults_of_adamw_are_pytorchs():
    optimizer = AdamW()
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-8)
    assert (optimizer.weight_decay, optimizer.exclude, optimizer.clip_norm) == (0.01, (), None)
    assert float(np.asarray(optimizer.learning_rate)) == pytest.approx(0.001)


@pytest.mark.parametrize("kind", [LARS, AdamW])
def test_lars_and_adamw_clip_accumulate_and_discard_as_all_do(kind):
    pieces, whole = [0.5, 0.25, -1.0, 2.0], [0.375, 0.5]
    settings = {"weight_decay": 0.125, "clip_norm": 0.4375}
    parts = steps(kind(Table([0.5, 0.25]), accumulate=2, **settings), pieces)
    batch = steps(kind(Table([0.5, 0.25]), **settings), whole)
    assert parts == [1.0, batch[0], batch[0], batch[1]]
    # A step that is discarded counts for the learning rate, but not in the moments.
    rates = Table([0.5, 0.125, 0.25])
    scaled = steps(kind(rates, loss_scale=4.0, **settings), [4 * 0.375, BAD, 4 * 0.5])
    assert scaled == [batch[0], batch[0], batch[1]]


def test_the_norm_of_all_gradients_is_clipped():
    pair = variables(kernel=[1.0, 1.0], bias=[1.0])
    optimizer = SGD(1.0, clip_norm=0.5)
    optimizer.build(pair)
    optimizer.apply([np.array([3.0, 0.0]), np.array([4.0])])  # norm 5: a tenth remains
    assert [*np.asarray(pair[0]), *np.asarray(pair[1])] == pytest.approx([0.7, 1.0, 0.6])
    optimizer.apply([np.array([0.3, 0.0]), np.array([0.4])])  # norm 0.5: nothing is cut
    assert [*np.asarray(pair[0]), *np.asarray(pair[1])] == pytest.approx([0.4, 1.0, 0.2])


def test_each_number_is_clipped():
    assert steps(SGD(1.0, clip_value=0.25), [3.0, -3.0, 0.125]) == [0.75, 1.0, 0.875]


def test_numbers_are_clipped_before_their_norm():
    pair = variables(kernel=[1.0], bias=[1.0])
    optimizer = SGD(1.0, clip_value=4.0, clip_norm=2.5)
    optimizer.build(pair)
    # 9 is cut to 4, then (4, 3) of norm 5 to half; by the norm first it would be 2.37 and 0.79.
    optimizer.apply([np.array([9.0]), np.array([-3.0])])
    assert [float(np.asarray(v)[0]) for v in pair] == pytest.approx([1 - 2.0, 1 + 1.5])


def test_lamb_cuts_the_gradient_where_it_is_told():
    assert LAMB(0.1).clip_norm == 1.0
    assert LAMB(0.1, clip_norm=5.0).clip_norm == 5.0
    assert LAMB(0.1, clip_norm=None).clip_norm is None


@pytest.mark.parametrize(
    "arguments",
    [{"momentum": 1.0}, {"weight_decay": -1}, {"nesterov": True}, {"clip_norm": 0.0},
     {"clip_value": -1.0}, {"accumulate": 0}, {"loss_scale": 0.0}, {"ema": 1.0},
     {"exclude": "bias"}, {"learning_rate": -0.1}, {"learning_rate": float("nan")}],
)  # fmt: skip
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`.*Received: "):
        SGD(**{"learning_rate": 0.1} | arguments)


@pytest.mark.parametrize("kind", [LAMB, AdamW])
@pytest.mark.parametrize("arguments", [{"beta_1": 1.0}, {"beta_2": -0.1}, {"epsilon": -1.0}])
def test_impossible_arguments_of_lamb_and_adamw_are_refused(kind, arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`.*Received: "):
        kind(0.1, **arguments)


@pytest.mark.parametrize(
    "arguments", [{"momentum": 1.0}, {"trust_coefficient": 0.0}, {"epsilon": -1.0}]
)
def test_impossible_arguments_of_lars_are_refused(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`.*Received: "):
        LARS(0.1, **arguments)


def test_table_keeps_its_last_rate():
    table = Table([0.3, 0.2])
    assert [float(table(i)) for i in (0, 1, 2, 99)] == pytest.approx([0.3, 0.2, 0.2, 0.2])
