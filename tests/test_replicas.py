"""Two replicas train as one device does; an overflow on either is heard by both."""

import json
from pathlib import Path

import pytest

# Virtual devices must be made before TensorFlow runs, so all of this is in processes of its own.
SETUP = """
import dataclasses, json, sys
from functools import partial
from types import SimpleNamespace
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
from resnet_keras import SPECS, ResNet
from resnet_keras.layers import BatchNormalization
from resnet_keras.losses import CrossEntropy
from resnet_keras.training.distillation import Teacher, distil
from resnet_keras.optimizers import LAMB, LARS, SGD, AdamW, Averaging, Table

one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""

# In float32 one of a million ReLUs finds its input within rounding of 0, on another side of it
# in the other training, and a batch of four images feels that (1e-2). In float64 none does.
FLOAT64 = """
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
"""

TRAINING = """
def train(strategy, case):
    replicas = strategy.num_replicas_in_sync
    make, loss, accumulate, mixed = CASES[case]
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS * 16, 8, 8, 3)).astype("uint8")
    labels = rng.integers(0, 10, len(images))
    if mixed:
        labels = rng.dirichlet(np.ones(10), len(images))
    with strategy.scope():
        norm = partial(BatchNormalization, synchronized=replicas > 1, replicas=replicas)
        model = ResNet(SPEC, input_shape=(8, 8, 3), classifier_activation=None, norm=norm)
        model.compile(make(), loss, jit_compile=False, auto_scale_loss=False)
        if case in TAUGHT:
            teacher = ResNet(SPEC, input_shape=(8, 8, 3), classifier_activation=None)
            columns = SimpleNamespace(teacher_weight=0.5, temperature=2.0)
            logits = partial(teacher, training=False)
            distil(model, Teacher(logits, 0), columns, sigmoid=loss.sigmoid)
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        optimizer.also_average(model.non_trainable_variables)
    start = [np.array(keras.ops.convert_to_numpy(v.value)) for v in model.trainable_variables]
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16 // accumulate)
    history = model.fit(batches, verbose=0, shuffle=False).history
    moved = far(start, [keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables])
    last = model.get_weights()
    optimizer.swap_averages()
    averages = model.get_weights() if optimizer.ema else last
    return moved, last, averages, history["loss"][0]

def far(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other))

for case in sys.argv[1].split(","):
    moved, last, averages, loss = train(one, case)
    _, last2, averages2, loss2 = train(two, case)
    print(json.dumps({
        "case": case, "moved": moved, "averages": far(last, averages),
        "apart": max(far(last, last2), far(averages, averages2), abs(loss - loss2) / loss),
    }))
"""

CASES = """
sgd = partial(SGD, Table([0.1, 0.1, 0.05, 0.05]), momentum=0.9, weight_decay=1e-4)
CASES = {
    "plain": (sgd, CrossEntropy(), 1, False),
    "parts-of-2": (partial(sgd, accumulate=2), CrossEntropy(), 2, False),
    "parts-of-4": (partial(sgd, accumulate=4), CrossEntropy(), 4, False),
    "average": (partial(sgd, ema=0.9), CrossEntropy(), 1, False),
    "clipped": (partial(sgd, clip_norm=0.25), CrossEntropy(label_smoothing=0.1), 1, False),
    "scaled": (partial(sgd, loss_scale=512.0), CrossEntropy(), 1, False),
    "rsb": (partial(LAMB, Table([0.005]), weight_decay=0.02),
            CrossEntropy(sigmoid=True, label_smoothing=0.1), 1, True),
    "lars": (partial(LARS, Table([1.0, 1.0, 0.5]), accumulate=2, trust_coefficient=0.125,
                     ema=Averaging(0.5, every=2, epoch=3)), CrossEntropy(), 2, True),
    "adamw": (partial(AdamW, Table([0.005])), CrossEntropy(), 1, False),
    "all": (partial(sgd, accumulate=2, ema=0.5, clip_norm=0.25, loss_scale=1024.0,
                    growth_steps=2), CrossEntropy(sigmoid=True), 2, True),
}
"""

# Those that learn from a teacher, too.
CASES += """
TAUGHT = {"adamw", "all"}
"""

SMALL = 'SPEC, STEPS = dataclasses.replace(SPECS["resnet20_cifar"], depths=(1, 1, 1)), 3\n'
LARGE = 'SPEC, STEPS = "resnet20_cifar", 4\n'


def train(run_python, model, *cases):
    code = SETUP + FLOAT64 + model + CASES + TRAINING
    done = run_python("-c", code, ",".join(cases), TF_ENABLE_ONEDNN_OPTS="0")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["case"] for row in found] == list(cases)
    return found


def check(rows):
    for row in rows:
        assert row["apart"] < 1e-12, row
        assert row["moved"] > 1e-3, row
        assert (row["averages"] > 1e-3) == (row["case"] in ("average", "lars", "all")), row


def test_two_replicas_equal_one_device(run_python):
    check(train(run_python, SMALL, "lars", "all"))


@pytest.mark.slow
def test_two_replicas_equal_one_device_in_all_cases(run_python):
    cases = ("plain", "parts-of-2", "parts-of-4", "average", "clipped", "scaled", "rsb", "lars")
    check(train(run_python, LARGE, *cases, "adamw", "all"))


# A linear model, y = w . x, with the loss mean(y): its gradient is the mean of the inputs. An
# input of 1e37 is finite in float32, and so is its loss, but not its gradient times 2 ** 15.
OVERFLOW = """
GOOD, LARGE = [0.5, -0.25], [1e37, 1e37]

def train(strategy, rows, **settings):
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)),
                                  keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
        optimizer = SGD(0.125, momentum=0.5, ema=0.5, **settings)
        model.compile(optimizer, lambda y, p: p, jit_compile=False, auto_scale_loss=False)
    rows = np.array(rows, "float32")
    batches = tf.data.Dataset.from_tensor_slices((rows, np.zeros((len(rows), 1)))).batch(2)
    model.fit(batches, verbose=0, shuffle=False)
    return model, optimizer

def copies(variable):
    return [np.array(copy) for copy in getattr(variable.value, "values", [variable.value])]

def all_equal(model, optimizer):
    for variable in (*model.variables, *optimizer.variables):
        first, second = copies(variable)
        assert np.array_equal(first, second), variable.path
        assert np.isfinite(first).all(), variable.path

moving = {"loss_scale": 2.0**15, "growth_steps": 2000}
good, _ = train(one, [GOOD, GOOD] * 2)
for bad in ([LARGE, GOOD], [GOOD, LARGE]):
    for settings, scale in ((moving, 2.0**14), ({"loss_scale": 2.0**15}, 2.0**15)):
        model, optimizer = train(two, [GOOD, GOOD, *bad, GOOD, GOOD], **settings)
        all_equal(model, optimizer)
        # The scale is a power of two, so nothing is rounded: the bad step never was.
        assert np.array_equal(copies(model.weights[0])[0], copies(good.weights[0])[0])
        assert float(copies(optimizer.scale)[0]) == scale
        assert int(copies(optimizer.updates)[0]) == 2 and int(copies(optimizer.iterations)[0]) == 3

# 200 steps; the scale grows after every third good one, and every fourth step overflows, on one
# replica, the other, or both.
ways = [[LARGE, GOOD], [GOOD, LARGE], [LARGE, LARGE]]
rows = [row for i in range(200) for row in (ways[i // 4 % 3] if i % 4 == 3 else [GOOD, GOOD])]
model, optimizer = train(two, rows, loss_scale=2.0**15, growth_steps=3)
good, _ = train(one, [GOOD, GOOD] * 150)
all_equal(model, optimizer)
assert np.array_equal(copies(model.weights[0])[0], copies(good.weights[0])[0])
assert int(copies(optimizer.updates)[0]) == 150 and float(copies(optimizer.scale)[0]) == 2.0**15
"""

# Plain batch norm: each replica normalises by its own images; the running statistics are the
# mean of both, in both, and what is evaluated under the strategy is what is saved.
STATISTICS = """
rng = np.random.default_rng(0)
rows = rng.normal(3, 2, (2, 2, 4, 3)).astype("float32")  # step, replica, row, feature
with two.scope():
    norm = BatchNormalization(momentum=0.75, replicas=2)
    layers = [keras.Input((1, 1, 3)), norm, keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(SGD(0.125, ema=0.5), "mse", jit_compile=False, auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.also_average(model.non_trainable_variables)
x, y = rows.reshape(-1, 1, 1, 3), rng.normal(size=(16, 1)).astype("float32")
batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
model.fit(batches, verbose=0, shuffle=False)
mean, variance, average = np.zeros(3), np.ones(3), None
for step in rows.astype("float64"):
    mean = 0.75 * mean + 0.25 * step.mean(1).mean(0)
    variance = 0.75 * variance + 0.25 * step.var(1, ddof=1).mean(0)
    average = mean if average is None else (average + mean) / 2
all_equal(model, model.optimizer)
assert np.abs(copies(norm.moving_mean)[1] - mean).max() < 1e-5
assert np.abs(copies(norm.moving_variance)[1] - variance).max() < 1e-5
under = model.evaluate(batches, verbose=0)
again = keras.models.clone_model(model)
again.set_weights(model.get_weights())
again.compile(loss="mse")
assert abs(again.evaluate(x, y, verbose=0) - under) < 1e-6 * under
with two.scope():  # as a callback of fit would
    model.optimizer.swap_averages()
all_equal(model, model.optimizer)
assert np.abs(copies(norm.moving_mean)[1] - average).max() < 1e-5
"""


@pytest.mark.slow
def test_an_overflow_on_either_replica_is_left_out_and_statistics_are_the_mean(run_python):
    done = run_python("-c", SETUP + OVERFLOW + STATISTICS, TF_ENABLE_ONEDNN_OPTS="0")
    assert done.returncode == 0, done.stderr[-3000:]


ONEDNN = """
import os
from resnet_keras import Recipe
from resnet_keras.errors import InputError
from resnet_keras.training.replicas import choose_replicas

try:
    choose_replicas(Recipe(model="resnet20_cifar", dataset="digits", replicas=2))
except InputError:  # one GPU
    pass
print(os.environ["TF_ENABLE_ONEDNN_OPTS"])
"""


def test_onednn_is_off_on_virtual_devices_and_the_users_elsewhere(run_python):
    asked = "0" if Path("/dev/nvidia0").exists() else "1"
    done = run_python("-c", ONEDNN, TF_ENABLE_ONEDNN_OPTS=asked, KERAS_BACKEND="tensorflow")
    assert done.stdout.split() == ["0"], done.stderr


METRIC = """
from resnet_keras.training import watch

with two.scope():
    first, again = keras.metrics.Mean(), keras.metrics.Mean()

def update(metric, numbers):
    @tf.function
    def step(values):
        metric.update_state(values)
    parts = two.experimental_distribute_values_from_function(
        lambda context: tf.constant(numbers[context.replica_id_in_sync_group])
    )
    two.run(step, args=(parts,))

rng = np.random.default_rng(0)
numbers = rng.uniform(0, 3, (40, 2)).astype("float32") * [[1, 1e-3]]
for pair in numbers[:17].astype("float32"):
    update(first, pair)
with two.scope():
    names = {f"metric/{i}": v for i, v in enumerate(first.variables)}
    saved = watch.values(names)
    assert saved["metric/0"].shape == (2,)  # a sum for each replica
    for variable, values in zip(again.variables, saved.values(), strict=True):
        watch._assign(variable, values)
for metric in (first, again):
    for pair in numbers[17:].astype("float32"):
        update(metric, pair)
with two.scope():
    assert [v.tobytes() for v in watch.values(names).values()] == [
        v.tobytes()
        for v in watch.values(
            {f"metric/{i}": v for i, v in enumerate(again.variables)}
        ).values()
    ]
assert float(first.result()) == float(again.result())
"""


@pytest.mark.slow
def test_a_metric_that_is_restored_goes_on_in_each_replica_bit_for_bit(run_python):
    done = run_python("-c", SETUP + METRIC, TF_ENABLE_ONEDNN_OPTS="0")
    assert done.returncode == 0, done.stderr[-3000:]
