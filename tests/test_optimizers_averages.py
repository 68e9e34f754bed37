"""What an optimizer does besides its algorithm: micro-batches, averages, loss scales."""

import inspect

import keras
import numpy as np
import pytest
from stepping import BAD, TORCH, steps, variables

from resnet_keras.optimizers import (
    LAMB,
    LARS,
    SGD,
    AdamW,
    Averaging,
    Table,
)


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
