"""The callbacks of a run: where it stands, and what a backup must have."""

import signal
import time
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from runs import newest_step

from resnet_keras import SGD, backup
from resnet_keras.training import watch

X = np.random.default_rng(0).standard_normal((8, 3)).astype("float32")
ONE_PROCESS = watch.Replicas(nullcontext, 1, 0, 1)


def test_a_position_counts_steps_and_says_what_comes_next():
    position = watch.Position(step=5, accumulate=2, steps_per_epoch=4, total=14, rows=[])
    assert (position.batch, position.step, position.at_step_end) == (10, 5, True)
    position.batch += 1
    assert (position.step, position.at_step_end, position.within_epoch) == (5, False, True)
    found = []
    for step in (0, 5, 8, 12, 13):
        position.batch = 2 * step
        found.append(position.next_epochs())
    # 3 whole epochs, then one of 2 steps.
    assert found == [(0, 3, 4), (1, 2, 3), (2, 3, 4), (3, 4, 2), (3, 4, 1)]
    ends = [step for step in range(1, 15) if not position_at(position, step).within_epoch]
    assert ends == [4, 8, 12, 14]


def position_at(position, step):
    position.batch = step * position.accumulate
    return position


def model_and_backups(optimizer, folder, **kind):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((3,)), keras.layers.Dense(1, name="fc")]
    model = kind.get("kind", keras.Sequential)(layers, name="line")
    model.compile(optimizer, "mse", auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    position = watch.Position(step=0, accumulate=1, steps_per_epoch=4, total=4, rows=[])
    backups = watch.Backups(position, folder, (3, "steps"), [], ONE_PROCESS, {}, None)
    return model, [watch.StepCounter(position), backups]


def fit(model, callbacks, x):
    model.fit(x, x[:, :1], batch_size=2, shuffle=False, verbose=0, callbacks=callbacks)


class WithoutOptimizer(keras.Sequential):
    """A model whose training step, as that of a new Keras might, calls another method."""

    def train_step(self, data):
        return self.test_step(data)


def test_a_run_whose_optimizer_is_not_called_saves_nothing(tmp_path):
    model, callbacks = model_and_backups(SGD(0.1), tmp_path, kind=WithoutOptimizer)
    with pytest.raises(RuntimeError, match="made 0 steps, the run 3.*`Optimizer.apply`.*Keras"):
        fit(model, callbacks, X)
    assert not backup.exist(tmp_path)


def test_a_weight_that_is_lost_is_not_saved(tmp_path):
    model, callbacks = model_and_backups(SGD(0.1), tmp_path)
    callbacks[0].position.batch = 3
    model.optimizer.iterations.assign(3)
    model.layers[0].bias.assign([np.inf])
    callbacks[1].set_model(model)
    with pytest.raises(watch.Diverged, match="line/fc/bias is NaN or infinite at step 3"):
        callbacks[1].save()
    assert not backup.exist(tmp_path)


@pytest.mark.parametrize("lost", [np.nan, -np.inf])
@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_no_backup_has_a_weight_that_is_not_finite(name, lost, tmp_path):
    model, callbacks = model_and_backups(SGD(0.1), tmp_path)
    fit(model, callbacks, X)
    good = backup.load(tmp_path)
    weight = getattr(model.layers[0], name)
    values = np.array(weight)
    values.flat[-1] = lost
    weight.assign(values)
    with pytest.raises(watch.Diverged, match=f"line/fc/{name} is NaN or infinite at step 4"):
        callbacks[1].save()
    kept = backup.load(tmp_path)
    assert kept.step == good.step == 4
    assert all(np.isfinite(array).all() for array in kept.arrays.values())


class Steps(keras.callbacks.Callback):
    """Notes the step of the newest backup after each batch."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.found = folder, []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(newest_step(self.folder))


@pytest.mark.parametrize(
    ("every", "saved"),
    # The last one was an hour before the first step.
    [((3600, "seconds"), [1, 1, 1]), ((3700, "seconds"), [0, 0, 0]), ((0, "seconds"), [1, 2, 3]),
     ((2, "steps"), [0, 2, 2]), ((3600, "steps"), [0, 0, 0])],
)  # fmt: skip
def test_backups_are_made_by_time_or_by_steps(every, saved, tmp_path):
    model, (counter, backups) = model_and_backups(SGD(0.1), tmp_path / "backup")
    backups.number, backups.unit = every
    backups.saved_at = time.monotonic() - 3601
    seen = Steps(tmp_path)
    fit(model, [counter, backups, seen], X)
    assert seen.found[:3] == saved and newest_step(tmp_path) == 4  # the end is always saved


def test_a_signal_says_what_is_finished_first(tmp_path, capfd):
    model, (_, backups) = model_and_backups(SGD(0.1), tmp_path)
    backups.set_model(model)
    for event, finished in (
        (lambda: None, "step"), (backups.on_test_begin, "validation"), (backups.on_test_end, "step")
    ):  # fmt: skip
        event()
        backups.signal = 0
        backups.on_signal(signal.SIGTERM, None)
        assert capfd.readouterr().err == f"\nSIGTERM: saving after this {finished}\n"
        assert backups.signal == signal.SIGTERM


def test_a_loss_that_is_lost_stops_the_run(tmp_path):
    model, callbacks = model_and_backups(SGD(0.1), tmp_path)
    lost = X.copy()
    lost[2] = np.nan
    with pytest.raises(watch.Diverged, match="the loss is NaN or infinite by step 2"):
        fit(model, callbacks, lost)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_backup_restores_an_optimizer_with_and_without_momentum(momentum, tmp_path):
    model, callbacks = model_and_backups(SGD(0.1, momentum=momentum), tmp_path)
    fit(model, callbacks, X)
    saved = backup.load(tmp_path)
    assert saved.step == 4
    again, _ = model_and_backups(SGD(0.1, momentum=momentum), tmp_path / "again")
    assert not np.array_equal(model.get_weights()[0], again.get_weights()[0])
    watch.restore(saved, again, [])
    for one in (model, again):
        one.fit(X, X[:, :1], batch_size=2, shuffle=False, verbose=0)
    for ours, theirs in zip(
        [*model.variables, *model.optimizer.variables],
        [*again.variables, *again.optimizer.variables],
        strict=True,
    ):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_callbacks_are_given_the_logs_of_the_batch_before():
    class Seen(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.batches, self.losses = [], []

        def on_train_batch_end(self, batch, logs=None):
            self.batches.append(batch)
            self.losses.append(logs["loss"])

    seen = Seen()
    late = watch.LateLogs([seen])
    for batch, loss in enumerate([3.0, 2.0, 1.0]):
        late.on_train_batch_end(batch, {"loss": loss})
    assert seen.batches == [0, 1, 2] and seen.losses == [3.0, 3.0, 2.0]


def test_a_loss_that_is_lost_in_the_last_batch_of_an_epoch_stops_the_run(tmp_path):
    model, callbacks = model_and_backups(SGD(0.1), tmp_path)
    lost = X.copy()
    lost[-1] = np.nan
    callbacks[1].every = None
    with pytest.raises(watch.Diverged, match="the loss is NaN or infinite by step 4"):
        fit(model, watch.LateLogs(callbacks[:1], model=model), lost)


def test_a_row_of_the_log_has_the_rate_of_its_last_step_and_all_seconds():
    position = watch.Position(step=4, accumulate=1, steps_per_epoch=4, total=8, rows=[])
    position.epochs_before = 3
    row = watch.EpochRow(position, lambda step: step / 8, spent=100.0)

    def epoch(number):
        row.on_epoch_begin(number)
        row.on_epoch_end(number, {"loss": np.float32(2), "accuracy": np.float32(0.5)})

    epoch(0)
    (first,) = position.rows
    assert list(first) == ["epoch", "learning_rate", "accuracy", "loss", "seconds"]
    assert list(first.values())[:4] == [4, 3 / 8, 0.5, 2.0] and 100 <= first["seconds"] < 101
    assert first["seconds"] == round(first["seconds"], 2)
    # The rest of an epoch within which a shorter run has ended: one row, the time of both.
    position.batch, row.spent = 6, 50.0
    epoch(0)
    (both,) = position.rows
    assert both["learning_rate"] == 5 / 8 and 150 <= both["seconds"] < 152
    epoch(1)
    assert [r["epoch"] for r in position.rows] == [4, 5] and position.rows[1]["seconds"] < 1


def test_what_was_spent_before_counts_in_one_epoch_alone():
    position = watch.Position(step=4, accumulate=1, steps_per_epoch=4, total=8, rows=[])
    row = watch.EpochRow(position, lambda step: 0.1, spent=1000.0)
    for epoch in (0, 1):
        row.on_epoch_begin(epoch)
        row.on_epoch_end(epoch, {})
    first, second = (row["seconds"] for row in position.rows)
    assert first >= 1000 > second
    assert watch.EpochRow(position, lambda step: 0.1).spent == 0


def test_the_profiler_traces_its_steps_alone(tmp_path):
    position = watch.Position(step=0, accumulate=2, steps_per_epoch=9, total=9, rows=[])
    profiler = watch.Profiler(position, range(1, 3), tmp_path / "trace")
    running = []
    for batch in range(8):  # two of them make a step
        profiler.on_train_batch_begin(batch)
        running.append(profiler.running)
        position.batch += 1
        profiler.on_train_batch_end(batch)
    assert running == [False, False, True, True, True, True, False, False]
    assert len(list((tmp_path / "trace").rglob("*.xplane.pb"))) == 1
    profiler.close()


def test_names_of_variables_do_not_depend_on_the_models_before():
    def names():
        layers = [keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(),
                  keras.layers.Dropout(0.5), keras.layers.Dense(1)]  # fmt: skip
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
        model.optimizer.build(model.trainable_variables)
        return list(watch.state(model, []))

    first = names()
    assert names() == first and len(first) == len(set(first))
    assert [name for name in first if name.startswith("model/")] == [
        "model/00000/sequential/conv2d/kernel", "model/00001/sequential/conv2d/bias",
        "model/00002/seed_generator/seed_generator_state", "model/00003/sequential/dense/kernel",
        "model/00004/sequential/dense/bias",
    ]  # fmt: skip
