"""Memory that is not there: one line with the need, and a batch that fits."""

import dataclasses
import errno
import json
import re
import resource
import sys
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import SHORT, refused_in_one_line

from resnet_keras import SPECS, Recipe, ResNet
from resnet_keras.errors import InputError
from resnet_keras.layers import Conv2D
from resnet_keras.training import memory, prepared, trained
from resnet_keras.training.replicas import Replicas

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(model="resnet20_cifar", dataset="digits", train_size=8, eval_size=8, batch_size=64)

# ResNet-20 for 3 channels and 10 classes: the stem; three stages of six convolutions, of which the
# first of the second and of the third doubles the channels; a batch norm of four numbers a channel
# behind each; the head.
WEIGHTS = (
    9 * (3 * 16 + 6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    + 4 * (7 * 16 + 6 * 32 + 6 * 64)
    + 64 * 10 + 10
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return ResNet("resnet20_cifar", input_shape=(8, 8, 3))


def change(**fields):
    return dataclasses.replace(RECIPE, **fields)


def test_halves_need_half_for_images_and_more_for_weights(model):
    full = memory.estimate(RECIPE, model, "float32")
    half = memory.estimate(RECIPE, model, "mixed_float16")
    assert half.each * 2 == full.each and half.fixed > full.fixed
    # Each weight, its gradient and its momentum has 4 bytes; a weight in half precision 2 more.
    assert full.fixed == 12 * WEIGHTS and half.fixed == 14 * WEIGHTS
    assert full.total == full.fixed + 64 * full.each


def test_shares_and_parts_need_less_and_averages_more(model):
    one = memory.estimate(RECIPE, model, "float32")
    assert memory.estimate(RECIPE, model, "float32", 4).images == 16
    parts = memory.estimate(change(accumulate=2), model, "float32", 4)
    assert parts.images == 8 and parts.fixed == one.fixed + 4 * model.count_params()
    for more in ({"ema": 0.9}, {"optimizer": "lamb"}, {"optimizer": "adamw"}):
        found = memory.estimate(change(**more), model, "float32").fixed
        assert found == one.fixed + 4 * model.count_params()


def test_what_the_backward_pass_keeps():
    spec = dataclasses.replace(SPECS["resnet20_cifar"], depths=(1, 1, 1))
    model = ResNet(spec, input_shape=(8, 8, 3))
    # The normalised input; the stem's convolution and batch norm; of one block a stage two of each,
    # and the sum. A shortcut that pads keeps nothing.
    kept = 8 * 8 * 3 + 2 * 8 * 8 * 16 + 5 * (8 * 8 * 16 + 4 * 4 * 32 + 2 * 2 * 64)
    assert memory.estimate(RECIPE, model, "float32").each == 4 * kept


def test_what_is_computed_again_is_not_kept():
    spec = dataclasses.replace(SPECS["resnet20_cifar"], depths=(1, 1, 1))
    model = ResNet(spec, input_shape=(8, 8, 3), conv=partial(Conv2D, recompute=True))
    # Of each block the first batch norm. That of the stem is kept, because a sum reads it, too.
    kept = 8 * 8 * 3 + 2 * 8 * 8 * 16 + 4 * (8 * 8 * 16 + 4 * 4 * 32 + 2 * 2 * 64)
    assert memory.estimate(RECIPE, model, "float32").each == 4 * kept
    # A bottleneck's first two, of a width that is a quarter of the third's.
    spec = dataclasses.replace(spec, block="bottleneck", shortcut="projection")
    models = [
        ResNet(spec, input_shape=(8, 8, 3), conv=conv)
        for conv in (Conv2D, partial(Conv2D, recompute=True))
    ]
    stock, less = (memory.estimate(RECIPE, model, "float32").each for model in models)
    # Where a block has a stride, it is that of its second convolution.
    first = 8 * 8 * (16 + 32) + 4 * 4 * 64
    second = 8 * 8 * 16 + 4 * 4 * 32 + 2 * 2 * 64
    assert stock - less == 4 * (first + second)


def test_the_peak_on_a_gpu_is_the_one_that_was_measured():
    """10,240 MiB on an H200 with JAX, bfloat16, 256 images: results/gpu/h200.json."""
    recipe = Recipe(
        model="resnet50", dataset="imagenet2012", train_size=224, eval_size=224, batch_size=256,
        momentum=0.9,
    )  # fmt: skip
    model = ResNet("resnet50")
    need = memory._estimate(recipe, model, "mixed_bfloat16", 1, on_gpu=True)
    results = json.loads((ROOT / "results/gpu/h200.json").read_text())
    measured = results["training bfloat16"]["ours"]["peak_MiB"] * 2**20
    assert 0.9 < need.total / measured < 1.1
    # What is kept, by table 1 of He et al. 2015: of a block of width w on a map of n x n, the
    # convolutions have 6 w, two of its batch norms 2 w, the sum 4 w, and 4 w more a projection.
    shapes = ((56, 64, 3), (28, 128, 4), (14, 256, 6), (7, 512, 3))
    kept = 224 * 224 * 3 + 2 * 112 * 112 * 64
    for size, width, depth in shapes:
        kept += size**2 * width * (depth * 12 + 4)
        if size < 56:  # its first convolution and batch norm are before the stride
            kept += 3 * size**2 * 2 * width
    assert need.each == 2 * kept


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_advice_fits_and_can_be_followed(model, replicas):
    there = 2**30
    recipe = change(batch_size=2**20)
    need = memory.estimate(recipe, model, "float32", replicas)
    assert need.total > there
    text = memory.advice(need, recipe, there)
    words = text.replace(";", " ").replace(",", " ").split()
    size = int(words[words.index("--batch-size") + 1])
    parts = int(words[words.index("--accumulate") + 1])
    for better in (change(batch_size=size), change(batch_size=2**20, accumulate=parts)):
        fitting = memory.estimate(better, model, "float32", replicas)
        assert better.batch_size % (replicas * better.accumulate) == 0
        assert fitting.total < there and fitting.images > 1
    # Not timid: twice as much would be too much, or nearly.
    assert memory.estimate(change(batch_size=size * 2), model, "float32", replicas).total > there
    assert "not even one" in memory.advice(need, recipe, need.fixed)


@pytest.mark.parametrize(
    ("batch", "accumulate", "images", "there", "size", "parts"),
    # There are 1.2 GiB to be used, of which weights take 1: 204 images of a MiB each, of 1,024. Six
    # parts and seven do not divide what each of two replicas has, eight do.
    [(2048, 1, 1024, 1.5, 408, 8), (1024, 1, 1024, 1.5, 204, 8), (2048, 2, 1024, 1.5, 408, 16),
     (1024, 1, 1024, None, 512, 2), (1024, 1, 1024, 4.0, 512, 2)],  # half of them at most
)  # fmt: skip
def test_the_advice_is_what_arithmetic_gives(batch, accumulate, images, there, size, parts):
    need = memory.Need(2**30, 2**20, images)
    recipe = change(batch_size=batch, accumulate=accumulate)
    text = memory.advice(need, recipe, there and int(there * 2**30))
    known = "" if there is None else f", there are {there:.2f} GiB"
    assert text.startswith(
        f"out of memory: a step needs about 2.00 GiB (estimated){known}; "
        f"--batch-size {size} would fit, or --accumulate {parts}, which"
    )


def test_what_fits_exactly_is_trained_and_one_image_is_a_batch():
    there = memory.available()
    memory.require(memory.Need(there - 1, 1, 1), RECIPE)
    with pytest.raises(InputError, match="out of memory"):
        memory.require(memory.Need(there, 1, 1), RECIPE)
    four = memory.Need(0, 1000, 4)
    # Four fifths of 1,300 bytes hold one image, of 1,200 none.
    assert "--batch-size 1 would fit" in memory.advice(four, change(batch_size=4), 1300)
    assert "not even one" in memory.advice(four, change(batch_size=4), 1200)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: no more"), RuntimeError("Out of memory: 5")],
    ids=repr,
)
def test_errors_of_memory_are_told_by_their_names(error):
    """As JAX raises them, too."""
    assert memory.ran_out(error)


def too_much_for_numpy():
    np.zeros(2**55, "uint8")


def too_much_for_tensorflow():
    import tensorflow as tf

    tf.zeros([2**55], tf.uint8)


def too_much_for_a_graph():
    import tensorflow as tf

    tf.function(lambda n: tf.random.uniform([n]))(tf.constant(2**50, tf.int64))


TOO_MUCH_FOR_JAX = """
import jax.numpy as jnp
from resnet_keras.training import memory

try:
    jnp.zeros(2**55, "uint8").block_until_ready()
except Exception as error:
    assert memory.ran_out(error), repr(error)
else:
    raise AssertionError("there are 2 ** 55 bytes")
"""


# Each of them really tries: 2 ** 55 bytes are more than any machine has.
@pytest.mark.parametrize(
    "allocate",
    [too_much_for_numpy, too_much_for_tensorflow,
     pytest.param(too_much_for_a_graph, marks=pytest.mark.slow)],  # TensorFlow tries for 10 s
)  # fmt: skip
def test_what_the_libraries_raise_is_known(allocate):
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011
        allocate()
    assert memory.ran_out(caught.value), repr(caught.value)


# How many of a thousand blocks of 100,000 bytes glibc maps one by one; by default larger ones only.
TRAIN = """
import ctypes, os, sys
from pathlib import Path
from resnet_keras import Recipe, train
from resnet_keras.errors import InputError

class Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")  # as malloc.h has them
    ]

recipe = Recipe(model="resnet20_cifar", dataset=f"folder:{sys.argv[1]}/missing",
                run_dir=Path(sys.argv[1], "run"), save_memory=sys.argv[2] == "save")
try:
    train(recipe)
except InputError as error:
    assert "missing" in str(error), error
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.mallinfo2.restype = ctypes.c_void_p, Mallinfo
before = libc.mallinfo2().hblks
blocks = [libc.malloc(100_000) for _ in range(1000)]
print(libc.mallinfo2().hblks - before, os.environ.get("TF_ONEDNN_USE_SYSTEM_ALLOCATOR"))
"""


def test_what_jax_raises_is_known(run_python):
    # In a process of its own: one that has begun with JAX warns of each fork that other tests need.
    done = run_python("-c", TOO_MUCH_FOR_JAX, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr


def test_saving_memory_maps_large_blocks_one_by_one(run_python, tmp_path):
    found = {}
    for what in ("save", "keep"):
        done = run_python("-c", TRAIN, tmp_path, what)
        assert done.returncode == 0, done.stderr
        mapped, told = done.stdout.split()
        found[what] = int(mapped)
        # By which TensorFlow asks glibc at all.
        assert told == {"save": "1", "keep": "None"}[what]
    # A few fit into gaps that there are already.
    assert found["save"] > 900 and found["keep"] < 10


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), InputError, "out of memory: a step needs about .* would fit"),
        # What is told already is not told in other words.
        (InputError("no file `Out of memory.png`"), InputError, "no file `Out of memory.png`"),
        (ValueError("a bug"), ValueError, "a bug"),
        (OSError(errno.ENOSPC, "Out of memory and of space"), OSError, "and of space"),
    ],
    ids=["memory", "refused", "bug", "full disk"],
)
def test_what_ends_a_training_is_told_once(error, kind, words, tmp_path, data_dir, monkeypatch):
    def fit(*arguments):
        raise error

    monkeypatch.setattr("resnet_keras.training.fitting.fit", fit)
    recipe = dataclasses.replace(SHORT, data_dir=data_dir, run_dir=tmp_path / "run")
    with ExitStack() as stack:
        job = prepared(recipe, recipe.run_dir, Replicas(nullcontext), "float32", stack)
        with pytest.raises(kind, match=words) as caught:
            trained(job, stack)
    assert (caught.value is error) == (not isinstance(error, MemoryError))


@pytest.mark.parametrize("libc", [SimpleNamespace(), SimpleNamespace(mallopt=lambda *_: 0)])
def test_another_c_library_than_glibc_is_refused_in_words(libc):
    with pytest.raises(InputError, match="`save_memory` needs Linux with glibc. Leave it out"):
        memory._map_large_blocks(libc)


def test_another_error_is_not_of_memory():
    assert not memory.ran_out(ValueError("the loss is NaN"))


@pytest.mark.slow
def test_a_batch_that_no_machine_holds_is_one_line_and_code_2(run_python, tmp_path, data_dir):
    flags = ("--batch-size", 2**28, "--run-dir", tmp_path / "run", "--data-dir", data_dir)
    done = run_python("recipes/quickstart.py", *flags, "--precision", "float32")
    line = refused_in_one_line(done, after_others=True)
    assert line.startswith("error: out of memory: a step needs about ") and " GiB" in line
    assert "--batch-size" in line and "--accumulate" in line and not (tmp_path / "run").exists()


def test_dry_run_tells_the_need_in_the_precision_asked_for():
    from resnet_keras.training.dry_run import resolved

    needs = {}
    for precision in ("float32", "mixed_bfloat16"):
        recipe = Recipe(model="resnet50", dataset="imagenet2012", precision=precision)
        needs[precision] = resolved(recipe)["estimated_memory_bytes"]
    assert 0.5 < needs["mixed_bfloat16"] / needs["float32"] < 0.55


def test_refusal_is_before_the_work(model):
    with pytest.raises(InputError, match="out of memory"):
        memory.require(memory.Need(0, 2**60, 64), RECIPE)
    memory.require(memory.Need(0, 1, 64), RECIPE)


GIB = 2**30
V1_UNLIMITED = 9223372036854771712  # as Linux writes it: 2 ** 63 less a page


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/", {"memory.max": 4 * GIB}, [4 * GIB]),  # a container with groups of its own
        ("0::/", {"memory.max": "max"}, []),
        ("0::/", {}, []),  # the machine itself
        ("0::/jobs/mine", {"jobs/mine/memory.max": "max", "jobs/memory.max": GIB}, [GIB]),
        ("0::/jobs/mine", {"jobs/mine/memory.max": 2 * GIB, "memory.max": GIB}, [2 * GIB, GIB]),
        ("0::/jobs/mine", {"jobs/other/memory.max": GIB}, []),
        # A container that sees its group's name outside, and its files at the top.
        ("4:memory:/docker/1:2\n0::/", {"memory/memory.limit_in_bytes": GIB}, [GIB]),
        ("4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": V1_UNLIMITED}, [V1_UNLIMITED]),
        ("4:cpu:/a", {"memory/a/memory.limit_in_bytes": GIB}, []),
        (None, {}, []),  # another system
    ],
)  # fmt: skip
def test_limits_of_control_groups(tmp_path, groups, files, limits):
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if groups is not None:
        texts["proc/self/cgroup"] = groups
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert memory.group_limits(tmp_path) == limits


def test_what_is_there_is_the_least_of_all_limits():
    (kib,) = re.findall(r"^MemTotal: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    own = resource.getrlimit(resource.RLIMIT_AS)
    limits = [own[0]] if own[0] != resource.RLIM_INFINITY else []
    there = min(int(kib) * 1024, *memory.group_limits(), *limits, 2**63)
    assert [memory.available(n) for n in (1, 2, 3)] == [there, there // 2, there // 3]
    used = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    if used > there - 2**28:
        pytest.skip("this process has reserved more addresses than there is memory")
    try:
        resource.setrlimit(resource.RLIMIT_AS, (there - 4096, own[1]))
        limited = memory.available(), memory.available(2)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, own)
    assert limited == (there - 4096, (there - 4096) // 2)


@pytest.mark.parametrize(
    ("told", "backend", "expected"),
    [({"bytes_limit": 4096}, "gpu", 4096), ({"bytes_limit": 4096}, "cpu", 4096),
     ({"bytes_in_use": 1}, "gpu", None), (None, "tpu", None), (None, "cpu", "all")],
)  # fmt: skip
def test_on_jax_a_device_tells_its_limit_but_a_cpu(told, backend, expected, monkeypatch):
    """`Device.memory_stats` gives None, or no `bytes_limit`, where a device does not tell."""
    everything = memory.available()
    device = SimpleNamespace(memory_stats=lambda: told)
    jax = SimpleNamespace(local_devices=lambda: [device], default_backend=lambda: backend)
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert memory.available() == (everything if expected == "all" else expected)


def test_on_tensorflow_the_smallest_gpu_limits(monkeypatch):
    from resnet_keras.internals import tensorflow

    monkeypatch.setattr(tensorflow, "gpu_memory", lambda: [3000, 2000, 4000])
    assert memory.available(2) != 2000
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * (kind == "GPU"))
    assert memory.available(2) == 2000  # each replica has a GPU of its own
