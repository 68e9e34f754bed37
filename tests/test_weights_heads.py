"""Which of a file's entries, networks and layers is read, and what is left is said."""

import json
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
from checkpoints import SMALL, prefixed, small, small_state, without_head
from pth_writer import write_zip
from safetensors.numpy import save_file

from resnet_keras import ResNet
from resnet_keras.weights import Report, convert, load_weights
from resnet_keras.weights.formats import Contents, read
from resnet_keras.weights.names import recognise
from resnet_keras.weights.names.reading import Reading


def zeros(*shape):
    return np.zeros(shape, np.float32)


def headed(name, **more):
    """The small network with its head renamed, and other arrays."""
    head = {f"{name}.{part}": small_state()[f"fc.{part}"] for part in ("weight", "bias")}
    return without_head(small_state()) | head | {k.replace("__", "."): a for k, a in more.items()}


def is_whole(model, scale=1):
    """Whether a model has the weights of the small network, head and all."""
    state = small_state()
    kernel = state["fc.weight"].T * scale
    conv = state["layer2.0.conv2.weight"].transpose(2, 3, 1, 0) * scale
    return np.array_equal(model.get_layer("predictions").kernel, kernel) and np.array_equal(
        model.get_layer("conv3_block1_2_conv").kernel, conv
    )


def backbone(arrays, prefix="backbone."):
    return prefixed(prefix, without_head(arrays))


def outer(name):
    """A head outside of the backbone's module."""
    return {f"{name}.{part}": small_state()[f"fc.{part}"] for part in ("weight", "bias")}


HEADS = {
    "dropout": (headed("fc.1"), "fc.1.weight", "torchvision"),
    "classifier": (headed("classifier"), "classifier.weight", "torchvision"),
    "linear": (headed("linear"), "linear.weight", "torchvision"),
    "last_linear": (headed("last_linear"), "last_linear.weight", "torchvision"),
    "head": (headed("head"), "head.weight", "torchvision"),
    "any other": (headed("mine.out"), "mine.out.weight", "torchvision"),
    "Lightning": (prefixed("backbone.", small_state()), "backbone.fc.weight", "torchvision"),
    "beside": (backbone(small_state()) | outer("head"), "head.weight", "torchvision"),
    "OpenMMLab": (backbone(small_state()) | outer("head.fc"), "head.fc.weight", "OpenMMLab"),
    "in a module": (prefixed("model.", headed("fc.1")), "model.fc.1.weight", "torchvision"),
    "leftovers": (
        headed("fc", loss__weight=zeros(10), train_acc__tp=zeros(10), n_averaged=zeros())
        | {"mean": zeros(1, 3, 1, 1), "val_f1.total": zeros(3)},
        "fc.weight",
        "torchvision",
    ),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_of_any_name(tmp_path, case):
    state, name, naming = HEADS[case]
    save_file(state, tmp_path / "x.safetensors")
    model = small()
    report = load_weights(model, tmp_path / "x.safetensors")
    assert is_whole(model) and name in report.matched and report.naming == naming
    assert len(report.matched) + len(report.skipped) == len(state)
    assert len(report.skipped) == (5 if case == "leftovers" else 0)
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert is_whole(keras.saving.load_model(tmp_path / "x.keras"))


def test_a_head_of_any_name_behind_one_stage(tmp_path):
    spec = replace(SMALL, depths=(1,), widths=(16,))
    head = {"mine.weight": np.ones((10, 16), np.float32), "mine.bias": zeros(10)}
    stages = {k: a for k, a in small_state().items() if not k.startswith(("fc", "layer2"))}
    save_file(stages | head, tmp_path / "x.safetensors")
    report = load_weights(ResNet(spec), tmp_path / "x.safetensors")
    assert {"mine.weight", "mine.bias"} <= set(report.matched) and not report.skipped


@pytest.mark.parametrize(("count", "more"), [(4, ""), (5, " and 1 more")])
def test_a_report_names_four_and_counts_the_others(count, more):
    names = tuple("abcdefg"[:count])
    lists = {"skipped": names, "new": names[:1], "others": names}
    report = Report("x.pth", "torchvision", ("w",), model="resnet18", **lists)
    assert str(report) == (
        f"x.pth: torchvision names, 1 tensors read; not read: a, b, c, d{more}; "
        f"skipped: a, b, c, d{more}; new: a"
    )


def test_a_head_without_bias(tmp_path):
    state = {key: array for key, array in small_state().items() if key != "fc.bias"}
    save_file(state, tmp_path / "x.safetensors")
    model = small()
    report = load_weights(model, tmp_path / "x.safetensors")
    assert is_whole(model) and not np.any(model.get_layer("predictions").bias)
    assert len(report.matched) == len(state)
    assert "; adapted: not in the file, so 0 (a variance: 1): fc.bias; assumed: RGB" in str(report)


MORE = {
    "mlp": {"fc.0.weight": zeros(8, 32), "fc.2.weight": zeros(10, 8), "fc.2.bias": zeros(10)},
    "norm": {"fc.0.weight": zeros(32), "fc.0.bias": zeros(32), "fc.1.weight": zeros(10, 32)},
    "weight norm": {"head.weight_g": zeros(10, 1), "head.weight_v": zeros(10, 32)},
    "parametrized": {
        "fc.parametrizations.weight.original0": zeros(10, 1),
        "fc.parametrizations.weight.original1": zeros(10, 32),
    },
    "convolution": {"classifier.weight": zeros(10, 32, 1, 1)},
    "two": {"fc.weight": zeros(10, 32), "classifier.weight": zeros(5, 32)},
    "unknown": {"mine.0.weight": zeros(8, 32), "mine.2.weight": zeros(10, 8)},
    "behind the old one": {
        "fc.weight": zeros(10, 32), "fc.bias": zeros(10), "out.weight": zeros(3, 10),
    },
    "cosines": {"fc.weight": zeros(10, 32), "fc.sigma": zeros(1)},
    "beside one kernel": {
        "look.weight": zeros(1, 32, 1, 1),
        "mine.0.weight": zeros(8, 32), "mine.2.weight": zeros(10, 8),
    },
}  # fmt: skip


def test_what_is_computed_with_one_number_is_not_left_out(tmp_path):
    """The exponent of a generalised mean pool, the scale of logits; counters are left out."""
    for name in ("pool.p", "backbone.pool.p", "logit_scale", "backbone.temperature"):
        arrays = prefixed("backbone.", small_state()) | {name: np.ones(1, np.float32)}
        save_file(arrays, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=f"has '{name}', which .* has no place for"):
            load_weights(small(), tmp_path / "x.safetensors")
    arrays = prefixed("backbone.", small_state()) | {"step": np.ones(1, np.float32)}
    save_file(arrays, tmp_path / "x.safetensors")
    assert load_weights(small(), tmp_path / "x.safetensors").skipped == ("step",)


@pytest.mark.parametrize("name", ["head", "classifier"])
def test_a_head_in_an_entry_of_its_own_is_the_head(tmp_path, name):
    state = small_state()
    head = {"weight": state["fc.weight"], "bias": state["fc.bias"]}
    extra = {"scores": {"best": zeros(3, 3)}, "image": zeros(1, 3, 8, 8)}
    write_zip(tmp_path / "x.pth", {"backbone": without_head(state), name: head, **extra})
    model = small()
    report = load_weights(model, tmp_path / "x.pth")
    assert is_whole(model) and f"{name}.weight" in report.matched and report.others == ()


def test_names_of_wrapped_modules_are_their_own(tmp_path):
    wrapped = {
        key.replace("layer1.0.", "layer1.0._checkpoint_wrapped_module.")
        .replace("layer2.", "layer2._fsdp_wrapped_module."): array
        for key, array in prefixed("_orig_mod.", small_state()).items()
    }  # fmt: skip
    write_zip(tmp_path / "x.pth", wrapped)
    model = small()
    assert len(load_weights(model, tmp_path / "x.pth").matched) == len(small_state())
    assert is_whole(model)


def test_a_teacher_and_a_student_of_another_depth_are_no_pair():
    deeper = {k.replace("layer2.0", "layer2.1"): a for k, a in times(2).items()}
    arrays = backbone(times(2) | deeper, "teacher.") | backbone(small_state(), "student.")
    with pytest.raises(ValueError, match="several networks: choose one by `prefix`"):
        recognise(Contents("x", arrays, {}))
    found = recognise(Contents("x", arrays, {}), Reading(prefix="student"))
    assert found.naming.prefix == "student."


def test_entries_of_a_teacher_and_a_student_of_another_depth(tmp_path):
    deeper = {k.replace("layer2.0", "layer2.1"): a for k, a in times(2).items()}
    write_zip(tmp_path / "x.pth", {"teacher": times(2) | deeper, "student": small_state()})
    with pytest.raises(ValueError, match="several state dicts: choose one by `key`"):
        load_weights(small(), tmp_path / "x.pth")
    model = small()
    load_weights(model, tmp_path / "x.pth", key="student")
    assert is_whole(model)


def test_a_table_of_a_measure_is_not_behind_the_classifier(tmp_path):
    arrays = prefixed("model.", small_state()) | {"val.confmat": zeros(10, 10)}
    save_file(arrays | {"table.confmat": zeros(10, 10)}, tmp_path / "x.safetensors")
    model = small()
    report = load_weights(model, tmp_path / "x.safetensors")
    assert is_whole(model) and set(report.skipped) == {"val.confmat", "table.confmat"}


def test_tensors_that_are_kept_in_other_files_are_named(tmp_path):
    """As a part of ZeRO-3."""
    save_file(dict.fromkeys(small_state(), zeros(0)), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"ZeRO-3 keeps in other files.*of shape \(0,\)"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")


def test_a_batch_norm_that_is_folded_is_missing(tmp_path):
    arrays = {k: a for k, a in small_state().items() if not k.startswith("bn1.")}
    save_file(arrays | {"conv1.bias": zeros(16)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no 'bn1.weight'"):
        load_weights(small(), tmp_path / "x.safetensors")
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is a ResNet v2"):
        load_weights(small(), tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["norm.mean", "norm.std", "normalize.pixel_mean", "mean"])
def test_statistics_of_pixels_within_a_network_are_no_head(tmp_path, name):
    arrays = prefixed("net.", without_head(small_state())) | outer("out")
    save_file(arrays | {name: zeros(1, 3, 1, 1)}, tmp_path / "x.safetensors")
    model = small()
    report = load_weights(model, tmp_path / "x.safetensors")
    assert is_whole(model) and report.skipped == (name,)


@pytest.mark.parametrize("told", [None, "linear", "sigmoid"])
def test_one_output_is_no_softmax(tmp_path, told):
    """Of PyTorch a decision; a Keras file shows what it is."""
    path = tmp_path / ("x.keras" if told else "x.safetensors")
    if told:
        small(classes=1, classifier_activation=told).save(path)
    else:
        state = small_state()
        save_file(
            state | {"fc.weight": state["fc.weight"][:1], "fc.bias": state["fc.bias"][:1]}, path
        )
    report = convert(path, tmp_path / "y.keras")
    last = keras.saving.load_model(tmp_path / "y.keras").layers[-1]
    assert last.activation.__name__ == (told or "sigmoid")
    said = "sigmoid behind the last layer, which has none in the file" in report.assumed
    assert said == (told is None)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_not_bgr(tmp_path, channels):
    state = small_state()
    kernel = np.ones((16, channels, 3, 3), np.float32)
    save_file(state | {"conv1.weight": kernel}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"images with {channels} channels.*Received: bgr=True"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras", bgr=True)
    convert(tmp_path / "x.safetensors", tmp_path / "x.keras")


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("case", MORE)
def test_a_head_that_is_more_is_not_dropped(tmp_path, case, prefix):
    save_file(backbone(small_state(), prefix) | MORE[case], tmp_path / "x.safetensors")
    for out in ("load", "convert"):
        with pytest.raises(ValueError, match="no single linear layer .*--backbone-only.*Received"):
            if out == "load":
                load_weights(small(), tmp_path / "x.safetensors")
            else:
                convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    if case in ("convolution", "beside one kernel") and not prefix:
        return  # a kernel in the network itself is not taken for a head even then
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras", backbone_only=True)
    assert set(report.skipped) == set(MORE[case])
    assert keras.saving.load_model(tmp_path / "x.keras").output_shape == (None, 16, 16, 32)
    assert set(load_weights(ResNet(SMALL, include_top=False), tmp_path / "x.safetensors").skipped)


def test_options_of_the_command(tmp_path, run_python):
    state = backbone(small_state(), "a.") | prefixed("b.", times(2))
    write_zip(tmp_path / "x.pth", {"one": small_state(), "two": state})
    options = ("--key", "two", "--prefix", "b", "--backbone-only", "--json")
    paths = (tmp_path / "x.pth", tmp_path / "x.keras")
    done = run_python("-m", "resnet_keras", "convert", *paths, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["skipped"]) == {"b.fc.weight", "b.fc.bias"} and report["others"] == ["a"]
    model = keras.saving.load_model(tmp_path / "x.keras")
    assert model.output_shape == (None, 16, 16, 32)
    truth = small_state()["conv1.weight"].transpose(2, 3, 1, 0) * 2
    np.testing.assert_array_equal(model.get_layer("conv1_conv").kernel, truth)


def times(scale):
    return {key: array * np.float32(scale) for key, array in small_state().items()}


LOSS = {"center": zeros(1, 8)}
OPTIMIZER = {"state": {0: {"momentum_buffer": zeros(3, 3, 3, 3)}}, "param_groups": [{"lr": 0.1}]}
ENTRIES = {
    **{
        name: ({name: small_state(), "epoch": 1, "optimizer": OPTIMIZER}, ())
        for name in "model_state_dict net module teacher ema weights params mine".split()
    },
    "nested": ({"state": {"model": {"net": small_state()}}, "optimizer_states": OPTIMIZER}, ()),
    "a loss": ({"mine": small_state(), "dino_loss": LOSS, "rng_state": zeros(4)}, ()),
    "by name": ({"mine": small_state(), "optimizer": {"exp_avg": times(2)}}, ()),
    "timm": ({"state_dict_ema": times(2), "state_dict": small_state()}, ("state_dict_ema",)),
    "torchvision": ({"model": small_state(), "model_ema": times(2)}, ("model_ema",)),
    "BasicSR": ({"params_ema": times(2), "params": small_state()}, ("params_ema",)),
    "DINO": ({"student": times(2), "teacher": small_state(), "dino_loss": LOSS}, ("student",)),
    "within one": (
        {"state": {"model": small_state(), "ema": times(2)}},
        ("state.ema",),
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_entries_of_training_checkpoints(tmp_path, case):
    root, others = ENTRIES[case]
    write_zip(tmp_path / "x.pth", root)
    model = small()
    report = load_weights(model, tmp_path / "x.pth")
    assert is_whole(model) and report.others == others
    if others:
        assert f"not read: {others[0]}" in str(report)
        assert load_weights(model, tmp_path / "x.pth", key=others[0]).others == ()
        assert is_whole(model, 2)


# What the scripts of many projects call the entry with the weights, and what else they save that
# holds tensors of four axes, too.
WRAPPERS = """
    state_dict model blobs model_state_dict model_state net network net_state_dict module weights
    params state backbone encoder encoder_q base online teacher student state_dict_ema model_ema
    ema_state_dict ema params_ema
""".split()
BESIDE = """
    optimizer optim_state lr_scheduler lr_schedulers lr_sched grad_scaler callbacks loops rng_state
    meta hyper_parameters
""".split()


@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_an_entry_of_a_common_name_is_meant(tmp_path, ending):
    """A pickle of NumPy's is read likewise."""
    path, kernel = tmp_path / f"x.{ending}", zeros(1, 1, 1, 1)
    for name in WRAPPERS:
        root = {"mine": {"w": kernel}, name: {"w": kernel + 1}}
        write_zip(path, root) if ending == "pth" else path.write_bytes(pickle.dumps(root, 2))
        found = read(path)
        assert found.others == ("mine",) and found.arrays["w"].item() == 1, name
        assert read(path, key="mine").arrays["w"].item() == 0


def test_what_is_beside_the_weights_is_no_network(tmp_path):
    kernel = zeros(1, 1, 1, 1)
    for name in BESIDE:
        write_zip(tmp_path / "x.pth", {name: {"w": kernel}, "mine": {"w": kernel + 1}})
        found = read(tmp_path / "x.pth")
        assert found.others == () and found.arrays["w"].item() == 1, name


def test_an_average_is_read_where_nothing_else_is_meant(tmp_path):
    """The weights themselves come first."""
    kernel = zeros(1, 1, 1, 1)
    for average in ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"):
        for name in ("state_dict", "model", "net", "params"):
            write_zip(tmp_path / "x.pth", {average: {"w": kernel}, name: {"w": kernel + 1}})
            found = read(tmp_path / "x.pth")
            assert found.others == (average,) and found.arrays["w"].item() == 1


def test_entries_to_choose_from(tmp_path):
    write_zip(tmp_path / "x.pth", {"one": small_state(), "two": times(2)})
    with pytest.raises(ValueError, match="several state dicts: choose one by `key`.*: one, two$"):
        load_weights(small(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no tensors at key 'three'. Received: one, two"):
        load_weights(small(), tmp_path / "x.pth", key="three")
    convert(tmp_path / "x.pth", tmp_path / "x.keras", key="two")
    assert is_whole(keras.saving.load_model(tmp_path / "x.keras"), 2)
    save_file(small_state(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="has no entries to choose from by `key`"):
        load_weights(small(), tmp_path / "x.safetensors", key="one")


PAIRS = {
    "MoCo": ("module.encoder_q", "module.encoder_k"),
    "MoCo v3": ("module.base_encoder", "module.momentum_encoder"),
    "BYOL": ("online_network.encoder", "target_network.encoder"),
    "BYOL, nested": ("online_encoder.net", "target_encoder.net"),
    "DINO": ("teacher.backbone", "student.backbone"),
    "Lightly": ("backbone", "backbone_momentum"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_networks_in_pairs(tmp_path, case):
    left, right = PAIRS[case]
    state = backbone(times(2), f"{right}.") | backbone(small_state(), f"{left}.")
    if case == "MoCo":
        state |= {f"{p}.fc.weight": zeros(12, 32) for p in PAIRS[case]}
        state |= {"module.queue": zeros(12, 40)}
    if case == "MoCo v3":
        state |= {f"{p}.fc.{i}.weight": zeros(32, 32) for p in PAIRS[case] for i in (0, 3)}
    if case == "DINO":
        state |= {f"{p}.head.mlp.0.weight": zeros(8, 32) for p in ("teacher", "student")}
        state |= {"teacher.head.last_layer.weight_g": zeros(9, 1)}
    write_zip(tmp_path / "x.pth", {"state_dict": state})
    report = convert(tmp_path / "x.pth", tmp_path / "x.keras")
    assert report.others == (right,) and f"not read: {right}" in str(report)
    assert report.naming == "torchvision" or case == "Lightly"
    for prefix, scale in ((None, 1), (left, 1), (right, 2)):
        model = ResNet(SMALL, include_top=False)
        load_weights(model, tmp_path / "x.pth", prefix=prefix)
        truth = small_state()["conv1.weight"].transpose(2, 3, 1, 0) * scale
        np.testing.assert_array_equal(model.get_layer("conv1_conv").kernel, truth)
        kept = small(classes=12)
        load_weights(kept, tmp_path / "x.pth", prefix=prefix, skip_head=True)
    with pytest.raises(ValueError, match=r"training without labels$|has no '"):
        load_weights(small(classes=12), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"no ResNet at prefix 'mine'. Received: .*{right}"):
        load_weights(model, tmp_path / "x.pth", prefix="mine")


@pytest.mark.parametrize(
    ("left", "right"),
    [("encoder", "momentum_encoder"), ("model.encoder", "model.encoder_momentum"),
     ("model.encoder_q", "model.encoder_k"), ("online", "target"), ("teacher", "student")],
)  # fmt: skip
def test_the_network_that_authors_go_on_with(left, right):
    arrays = backbone(times(2), f"{right}.") | backbone(small_state(), f"{left}.")
    found = recognise(Contents("x", arrays, {}))
    assert found.others == (right,) and found.naming.prefix == f"{left}."


def test_a_pair_in_a_file_without_entries(tmp_path):
    arrays = backbone(times(2), "backbone_momentum.") | backbone(small_state())
    save_file(arrays, tmp_path / "x.safetensors")
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert report.others == ("backbone_momentum",)


def test_barlow_twins(tmp_path):
    state = backbone(small_state(), "module.backbone.")
    state |= {f"module.projector.{i}.weight": zeros(32, 32) for i in (0, 3)}
    state |= {"module.bn.running_mean": zeros(32)}
    write_zip(tmp_path / "x.pth", {"epoch": 1, "model": state})
    report = convert(tmp_path / "x.pth", tmp_path / "x.keras")
    assert report.naming == "torchvision" and len(report.skipped) == 3


def test_prototypes_beside_a_backbone_are_no_head(tmp_path):
    """SwAV: `module.prototypes` under the prefix of the backbone itself."""
    arrays = prefixed("module.", without_head(small_state()))
    arrays |= {
        "module.projection_head.0.weight": np.zeros((16, 32), np.float32),
        "module.prototypes.weight": np.zeros((300, 16), np.float32),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert set(report.skipped) == {"module.projection_head.0.weight", "module.prototypes.weight"}
    model = keras.saving.load_model(tmp_path / "x.keras")
    assert model.output_shape == (None, 16, 16, 32)
