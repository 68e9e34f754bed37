"""Quantization-aware training computes what the int8 file computes."""

import dataclasses
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from resnet_keras import SPECS, ResNet, data, quantize
from resnet_keras.clones import fold
from resnet_keras.errors import InputError

# All kinds of layers of our networks, in five blocks: deep stem, pooling in stem and shortcut.
SMALL = dataclasses.replace(SPECS["resnetv1d50"], depths=(2, 1, 1, 1), widths=(8, 8, 16, 16))


def small_network():
    """With random weights and batch norms that are not the identity, and scores of all sizes."""
    keras.utils.set_random_seed(0)
    model = ResNet(SMALL, input_shape=(64, 64, 3), classes=7)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            gamma, beta, mean = random.uniform(0.5, 1, n), *random.normal(0, 0.1, (2, n))
            variance = random.uniform(0.5, 1.5, n)
            layer.set_weights([gamma, beta, mean, variance])
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([100 * kernel, bias])
    return model


def waves(count):
    """Smooth images that are all different: uint8 `(count, 64, 64, 3)`."""
    i, y, x, c = np.ogrid[:count, :64, :64, :3]
    return (127 + 120 * np.sin((i + 1) * 0.05 * x + c) * np.cos(0.03 * (i % 4 + 1) * y)).astype(
        np.uint8
    )


def int8_file(model, images=None):
    """A file of integers, of a model with fake-quantization operators, or calibrated on images."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name="images")
    archive.add_endpoint("serve", model.call, input_signature=[spec])
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        if images is not None:
            converter.representative_dataset = lambda: (
                [image[None].astype(np.float32)] for image in images
            )
        return converter.convert()


def interpreter_of(file):
    without_delegates = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=file, experimental_op_resolver_type=without_delegates)
    interpreter.allocate_tensors()
    return interpreter


def probabilities(file, images):
    """Probabilities that the real interpreter computes from raw bytes, image by image."""
    interpreter = interpreter_of(file)
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = end["quantization"]
    answers = []
    for image in images:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(end["index"])[0])
    return (np.float32(answers) - zero) * scale


def test_activations_are_rounded_as_in_the_paper():
    # Jacob et al. 2018, equations 1 and 12, and section 3.1: zero is moved onto a level.
    layer = quantize.FakeQuant((-1.0, 2.1))
    x = np.random.default_rng(0).uniform(-2, 3, 100_000).astype(np.float32)
    step = 3.1 / 255
    zero = 82  # 1 / step is 82.26
    levels = np.clip(np.round(x / step) + zero, 0, 255)
    assert np.allclose(layer(x), (levels - zero) * step, atol=1e-6)
    assert len(np.unique(layer(x))) == 256


def test_pixels_are_levels_of_their_own():
    pixels = np.arange(256, dtype=np.float32)
    assert np.array_equal(quantize.FakeQuant((0.0, 255.0))(pixels), pixels)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_rounded_around_zero(per_channel):
    weights = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    weights[..., 1] *= 100
    step = np.abs(weights).max(axis=(0, 1, 2) if per_channel else None) / 127
    expected = np.round(weights / step) * step
    got = np.asarray(quantize.round_weights(weights, per_channel=per_channel))
    assert np.allclose(got, expected, atol=1e-4 * step.max(), rtol=1e-5)


def test_a_channel_of_zeros_stays():
    assert not np.any(quantize.round_weights(np.zeros((1, 1, 2, 3), np.float32)))


def test_gradients_go_straight_through_inside_and_nowhere_outside():
    layer = quantize.FakeQuant((-1.0, 2.0))
    x = tf.constant([-3.0, -1.1, -0.9, 0.0, 0.013, 1.9, 2.1, 5.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(layer(x) * tf.range(1.0, 9.0))
    assert np.array_equal(tape.gradient(y, x), [0, 0, 3, 4, 5, 6, 0, 0])
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = tf.reduce_sum(quantize.round_weights(kernel) * kernel.numpy())
    assert np.array_equal(tape.gradient(y, kernel), kernel)  # of the largest, too


def test_a_range_that_has_seen_many_batches_moves_by_a_hundredth():
    layer = quantize.FakeQuant()
    layer.build((2,))
    for seen, keep in ((10_000, 0.99), (891, 0.99), (91, 0.91)):  # seen / (seen + 9) up to 0.99
        layer.set_weights(np.float32([-1.0, 2.0, seen]))
        layer(np.float32([-3.0, 4.0]), training=True)
        expected = [-keep - 3 * (1 - keep), 2 * keep + 4 * (1 - keep)]
        assert np.allclose([float(layer.low), float(layer.high)], expected, atol=1e-6)
        assert float(layer.seen) == seen + 1


def test_a_range_follows_the_extremes_in_training_alone():
    layer = quantize.FakeQuant()
    batches = [[-1.0, 4.0], [-3.0, 2.0], [1.0, 6.0]]
    low = high = 0.0
    for seen, batch in enumerate(batches):
        layer(np.float32(batch), training=True)
        keep = seen / (seen + 9)
        low = keep * low + (1 - keep) * min(batch[0], 0)
        high = keep * high + (1 - keep) * batch[1]
        assert np.allclose([float(layer.low), float(layer.high)], [low, high], atol=1e-6)
    layer(np.float32([-100.0, 100.0]))
    assert np.allclose([float(layer.low), float(layer.high)], [low, high], atol=1e-6)


@pytest.mark.slow
def test_replicas_agree_on_a_range(run_python):
    code = """
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from resnet_keras.quantize import FakeQuant
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
batches = strategy.experimental_distribute_values_from_function(
    lambda replica: tf.constant([[-1.0, 4.0], [-3.0, 2.0]][replica.replica_id_in_sync_group]))
with strategy.scope():
    layer = FakeQuant()
    layer.build((2,))
for _ in range(2):
    tf.function(lambda: strategy.run(lambda x: layer(x, training=True), (batches,)))()
variables = (layer.low, layer.high, layer.seen)
print([float(v.numpy()) for variable in variables for v in variable.value.values])
"""
    done = run_python("-c", code, TF_ENABLE_ONEDNN_OPTS="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[-2.0, -2.0, 3.0, 3.0, 2.0, 2.0]"


@pytest.mark.slow
def test_a_clone_becomes_the_float_network_again():
    model = small_network()
    clone = quantize.quantization_aware(model)
    images = waves(4)
    clone(images, training=True)
    back, folded = quantize.dequantized(clone), fold(model)
    assert all(type(layer).__module__.startswith("keras.") for layer in back.layers)
    assert [layer.name for layer in back.layers] == [layer.name for layer in folded.layers]
    assert np.array_equal(back(images), folded(images))
    again = quantize.quantization_aware(back, quantize.activation_ranges(clone))
    assert np.array_equal(again(images), clone(images))
    assert np.abs(again(images) - keras.ops.log(back(images))).max() > 0  # it does round


@pytest.mark.slow
def test_all_layers_become_integers_without_calibration():
    clone = quantize.quantization_aware(small_network())
    images = waves(16)
    clone(images, training=True)
    model = quantize.with_probabilities(clone)
    file = int8_file(model)
    interpreter = interpreter_of(file)
    kinds = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert kinds <= {np.uint8, np.int8, np.int32}
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in clone.layers)
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert names.count("CONV_2D") == convolutions + 1  # and the normalisation
    assert "MUL" not in names and "FAKE_QUANT" not in names
    expected = model(images).numpy()
    assert 0.1 < expected.max() < 0.9 and len(set(expected.argmax(1))) > 2
    # They round alike, but for sums that lie between two levels. Probabilities are 1/256 apart.
    assert np.abs(probabilities(file, images) - expected).max() < 0.02


@pytest.fixture(scope="module")
def fine_tuned(digits_run, data_dir):
    """A digits network, and its clone after eight more epochs."""
    model = keras.saving.load_model(digits_run / "model.keras", compile=False)
    images, labels = data.Source("digits", "train", data_dir=data_dir).open().arrays
    keras.utils.set_random_seed(0)
    clone = quantize.quantization_aware(model)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 8 * 23)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    clone.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
    clone.fit(images, labels, batch_size=64, epochs=8, verbose=0)
    return model, clone


def test_digits_in_int8(fine_tuned, data_dir, tmp_path):
    model, clone = fine_tuned
    images, labels = data.Source("digits", "test", data_dir=data_dir).open().arrays
    few = data.Source("digits", "train", data_dir=data_dir).open().arrays[0][:100]

    # From the files that a run leaves.
    quantize.dequantized(clone).save(tmp_path / "model.keras")
    quantize.write_ranges(tmp_path / "model.keras", quantize.activation_ranges(clone))
    plain = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    rebuilt = quantize.quantization_aware(plain, quantize.read_ranges(tmp_path / "model.keras"))
    expected = quantize.with_probabilities(rebuilt)(images).numpy()
    assert np.array_equal(expected, keras.ops.softmax(clone(images)))

    file = int8_file(quantize.with_probabilities(rebuilt))
    interpreter = interpreter_of(file)
    (entry,) = interpreter.get_input_details()
    assert entry["dtype"] == np.uint8 and entry["quantization"] == (1.0, 0)
    kinds = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert kinds <= {np.uint8, np.int8, np.int32}

    got = probabilities(file, images)
    assert np.mean(got.argmax(1) == expected.argmax(1)) >= 0.99
    calibrated = probabilities(int8_file(model, few), images)
    top1, calibrated_top1, float_top1 = (
        np.mean(answers.argmax(1) == labels) for answers in (got, calibrated, model(images).numpy())
    )
    # Calibration may by luck be right where the network itself is wrong.
    assert top1 >= min(calibrated_top1, float_top1) and top1 >= float_top1 - 0.005
    assert top1 > 0.9
    assert len(file) <= 0.30 * 4 * model.count_params()


def test_ranges_of_another_network_are_refused(fine_tuned, tmp_path):
    model, clone = fine_tuned
    path = tmp_path / "model.keras"
    model.save(path)
    assert quantize.read_ranges(path) is None
    with pytest.raises(InputError, match="belong to another network"):
        quantize.quantization_aware(small_network(), quantize.activation_ranges(clone))
    quantize.write_ranges(path, quantize.activation_ranges(clone))
    assert quantize.read_ranges(path) == quantize.activation_ranges(clone)
    quantize.dequantized(clone).save(path)
    with pytest.raises(InputError, match="belongs to another model"):
        quantize.read_ranges(path)
    (tmp_path / "model.quantization.json").write_text("{}")
    with pytest.raises(InputError, match="contains no activation ranges"):
        quantize.read_ranges(path)


def test_a_network_that_does_not_normalise_is_refused():
    model = ResNet(SMALL, input_shape=(64, 64, 3), classes=7, include_preprocessing=False)
    with pytest.raises(InputError, match="normalises its pixels itself"):
        quantize.quantization_aware(model)
