"""SGD and AdamW follow PyTorch's arithmetic, LARS and LAMB their papers, LAMB also timm.

Nothing moves where it must not.
"""

import inspect
import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest

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

# Made by tests/golden/torch_training.py.
TORCH = json.loads(Path("tests/golden/torch_training.json").read_text())

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


def variables(**values):
    """Float64 variables of these names and values."""
    return [keras.Variable(np.array(v, "float64"), name=name) for name, v in values.items()]


def steps(optimizer, gradients, variable=None, start=1.0):
    """Follow one scalar parameter through a list of gradients."""
    if variable is None:
        (variable,) = variables(kernel=[start])
    optimizer.build([variable])
    path = []
    for gradient in gradients:
        optimizer.scale_loss(np.float32(1))  # as a training step does
        optimizer.apply([np.array([gradient])])
        path.append(float(np.asarray(variable)[0]))
    return path


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


# The first pair of gradients has norm 5 and is cut to 1, the others are short enough.
GRADIENTS = [([3.0, 0.0], [4.0]), ([-0.2, 0.1], [0.3]), ([0.1, 0.05], [-0.4])]


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


def test_micro_batches_make_the_step_of_their_mean():
    pieces, whole = [0.5, 0.25, -1.0, 2.0], [0.375, 0.5]
    settings = {"momentum": 0.5, "weight_decay": 0.125, "clip_norm": 0.4375}
    parts = steps(SGD(Table([0.5, 0.25]), accumulate=2, **settings), pieces)
    batch = steps(SGD(Table([0.5, 0.25]), **settings), whole)
    assert parts == [1.0, batch[0], batch[0], batch[1]]


def test_average_of_the_weights():
    (variable,) = variables(kernel=[1.0])
    optimizer = SGD(1.0, ema=0.75)
    path = steps(optimizer, [0.5, 0.25, -1.0], variable)
    average = path[0]  # the first step copies
    for weight in path[1:]:
        average = 0.75 * average + 0.25 * weight
    optimizer.swap_averages()
    assert float(np.asarray(variable)[0]) == average
    optimizer.swap_averages()
    assert float(np.asarray(variable)[0]) == path[-1]


def test_two_hundred_moves_of_the_average_are_torchvisions():
    # The loop of tests/golden/torch_training.py: four epochs of 50 steps, a move every 8.
    draws = np.random.default_rng(0).standard_normal((201, 4))
    start = draws[-1]
    kernel, bias, statistic = variables(kernel=start[:2], bias=start[2:3], statistic=start[3:])
    averaging = Averaging(0.75, every=8, copy_steps=50, epoch=50)
    optimizer = SGD(0.125, momentum=0.5, ema=averaging)
    optimizer.build([kernel, bias])
    optimizer.also_average([statistic])
    found = []
    for draw in draws[:200]:
        statistic.assign(draw[3:])  # as the forward pass does
        with optimizer.averaging_statelessly():
            before = [np.array(v) for v in optimizer.variables]
            optimizer.apply([draw[:2], draw[2:3]])
        if keras.backend.backend() == "jax":
            after = [v.value for v in optimizer.variables]
            values = {id(statistic): statistic.value}
            after = optimizer.average_statelessly(before, after, values)
            for variable, value in zip(optimizer.variables, after, strict=True):
                variable.assign(value)
        found.append(np.concatenate([np.array(v) for v in optimizer.averages]))
    assert np.abs(np.array(found) - TORCH["averages"]).max() < 1e-12
    # Within an interval nothing moves; every epoch begins with a move, however long the last was.
    moved = [i for i in range(1, 200) if not np.array_equal(found[i], found[i - 1])]
    assert [*moved[:8], *moved[-1:]] == [8, 16, 24, 32, 40, 48, 50, 58, 198]


@pytest.mark.parametrize("kind", [SGD, LARS, LAMB, AdamW])
def test_a_resumed_optimizer_equals_one_that_was_not_also_between_two_moves(kind):
    own = {"momentum": 0.5} if "momentum" in inspect.signature(kind).parameters else {}
    draws = np.random.default_rng(0).standard_normal((40, 2))

    def begin():
        pair = variables(kernel=[1.0, 2.0])
        averaging = Averaging(0.75, every=8, copy_steps=10, epoch=15)
        optimizer = kind(0.125, ema=averaging, weight_decay=0.125, **own)
        optimizer.build(pair)
        return optimizer, [*pair, *optimizer.variables]

    whole, kept = begin()
    for draw in draws:
        whole.apply([draw])
    for stop in range(1, 40, 5):
        first, state = begin()
        for draw in draws[:stop]:
            first.apply([draw])
        again, resumed = begin()
        for variable, saved in zip(resumed, state, strict=True):
            variable.assign(np.array(saved))
        for draw in draws[stop:]:
            again.apply([draw])
        for ours, expected in zip(resumed, kept, strict=True):
            assert np.array_equal(np.array(ours), np.array(expected))


def test_an_average_that_skips_steps_counts_those_that_are_taken():
    (variable,) = variables(kernel=[1.0])
    optimizer = SGD(1.0, ema=Averaging(0.5, every=2), loss_scale=2.0)
    # The first step that is taken is copied: an average never has values that no weight had.
    path = steps(optimizer, [BAD, 1.0, BAD, 2.0, 4.0], variable)
    assert path == [1.0, 0.5, 0.5, -0.5, -2.5]
    optimizer.swap_averages()
    assert float(np.asarray(variable)[0]) == (0.5 - 2.5) / 2


@pytest.mark.parametrize(
    ("copy_steps", "epoch", "last"), [(0, 5, 0), (5, 5, 5), (6, 5, 8), (9, 5, 10), (4, None, 6)]
)
def test_the_last_copy_is_the_first_move_after_the_copies(copy_steps, epoch, last):
    averaging = Averaging(0.9, every=3, copy_steps=copy_steps, epoch=epoch)
    told = [[None if x is None else bool(x) for x in averaging.at(step)] for step in range(20)]
    assert [i for i in range(20) if told[i][1]] == list(range(last + 1))
    assert told[last][0]
    within = [i % (epoch or 100) for i in range(20)]
    assert [moves for moves, _ in told] == [i % 3 == 0 for i in within]
    assert Averaging(0.9).at(7)[0] is None


@pytest.mark.parametrize(
    "wrong",
    [{"decay": 1.0}, {"every": 0}, {"copy_steps": -1}, {"epoch": 0}],
    ids=str,
)
def test_impossible_averaging_is_refused(wrong):
    with pytest.raises(ValueError, match=r"`ema` must .*Received: "):
        SGD(0.1, ema=Averaging(**{"decay": 0.5, **wrong}))


BAD = float("inf")


def test_fixed_loss_scale_leaves_out_what_is_not_finite():
    for bad in (BAD, -BAD, float("nan")):
        optimizer = SGD(1.0, momentum=0.5, weight_decay=0.125, ema=0.5, loss_scale=512.0)
        first, second = steps(SGD(1.0, momentum=0.5, weight_decay=0.125), [0.5, 0.5])
        assert steps(optimizer, [256.0, bad, 256.0]) == [first, first, second]
        assert float(np.asarray(optimizer.scale)) == 512
        assert int(np.asarray(optimizer.updates)) == 2
        assert int(np.asarray(optimizer.iterations)) == 3  # the schedule goes by batches


def test_moving_loss_scale():
    optimizer = SGD(0.0, loss_scale=4.0, growth_steps=3)
    (variable,) = variables(kernel=[1.0])
    optimizer.build([variable])
    scales = []
    for gradient in (1, 1, 1, 1, 1, BAD, 1, 1, 1, BAD, BAD, BAD, BAD, BAD):
        optimizer.scale_loss(np.float32(1))
        optimizer.apply([np.array([gradient], "float64")])
        scales.append(float(np.asarray(optimizer.scale)))
    assert scales == [4, 4, 8, 8, 8, 4, 4, 4, 8, 4, 2, 1, 1, 1]
    assert float(optimizer.scale_loss(np.float32(3))) == 3


def test_one_bad_micro_batch_leaves_out_the_batch():
    optimizer = SGD(1.0, accumulate=2, loss_scale=8.0, growth_steps=2)
    path = steps(optimizer, [BAD, 8.0, 4.0, 8.0, 8.0, 8.0])
    # The scale is halved once, after the first batch, and doubled after two good ones.
    assert path == [1.0, 1.0, 1.0, -0.5, -0.5, -2.5]
    assert float(np.asarray(optimizer.scale)) == 8


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


@pytest.mark.parametrize("every", [1, 2])
def test_fit_averages_the_statistics_of_the_steps_that_are_taken(every):
    from resnet_keras.training.building import average_statistics_on_jax

    rng = np.random.default_rng(0)
    norm = keras.layers.BatchNormalization(momentum=0.5)
    model = keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(1)])
    optimizer = SGD(0.1, ema=Averaging(0.75, every=every), loss_scale=2.0**15)
    average_statistics_on_jax(model)
    model.compile(optimizer, keras.losses.MeanSquaredError(), auto_scale_loss=False)
    optimizer.build(model.trainable_variables)
    optimizer.also_average(model.non_trainable_variables)
    seen = []
    # The third step's gradient is not finite in float32; what batch norm sees of it is.
    for size in (1.0, 1.0, 1e36, 1.0):
        x, y = rng.standard_normal((2, 8, 3)).astype("float32")
        model.train_on_batch(x, size * y[:, :1])
        seen.append([np.array(v) for v in model.get_weights()])
    average = seen[0]
    for weights in (seen[1], seen[3])[every - 1 :]:
        average = [0.75 * a + 0.25 * w for a, w in zip(average, weights, strict=True)]
    assert int(np.asarray(optimizer.updates)) == 3
    optimizer.swap_averages()
    for ours, expected in zip(model.get_weights(), average, strict=True):
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)
    optimizer.swap_averages()
    for ours, expected in zip(model.get_weights(), seen[3], strict=True):
        assert np.array_equal(ours, expected)
    assert not np.allclose(seen[2][2], seen[1][2])  # it moved the statistics themselves


@pytest.mark.parametrize("every", [1, 2])
def test_a_stateless_step_averages_statistics_where_it_was_taken(every):
    """As JAX needs it: nothing is assigned, and the numbers are those of the definition."""
    optimizer = SGD(0.1, ema=Averaging(0.75, every=every))
    kernel, statistic, state = variables(kernel=[1.0], mean=[2.0], variance=[4.0])
    optimizer.build([kernel])
    optimizer.also_average([statistic, keras.Variable(7, dtype="int32", trainable=False), state])
    names = [v.path.rpartition("/")[2] for v in optimizer.variables]
    assert names[-3:] == ["kernel_average", "mean_average", "variance_average"]
    place = names.index("updates")
    average = [np.array(v) for v in optimizer.variables]
    values = {id(statistic): np.array([10.0]), id(state): np.array([20.0])}
    first, second = 8.0, 16.0
    for updates in range(4):
        before = list(average)
        before[place] = np.int32(updates)
        before[-2:] = [np.array([first]), np.array([second])]
        same = optimizer.average_statelessly(before, list(before), values)  # was discarded
        assert [float(np.asarray(v).ravel()[0]) for v in same[-2:]] == [first, second]
        after = list(before)
        after[place] = np.int32(updates + 1)
        found = optimizer.average_statelessly(before, after, values)
        if updates == 0:  # the first step copies
            first, second = 10.0, 20.0
        elif updates % every == 0:
            first, second = 0.75 * first + 0.25 * 10, 0.75 * second + 0.25 * 20
        assert [float(np.asarray(v).ravel()[0]) for v in found[-2:]] == [first, second]
        assert found[:-2] == after[:-2] and len(found) == len(after)
        first, second = first + 1, second - 1
    assert float(np.asarray(optimizer.averages[-1])[0]) == 0
    with pytest.raises(KeyError), optimizer.averaging_statelessly():
        assert optimizer._calls.averaging
        raise KeyError
    assert not optimizer._calls.averaging


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
