"""The fast layers compute the numbers of the slow ones."""

import keras
import numpy as np
import pytest
from slopes import slopes

from resnet_keras.devices import cpu_flags
from resnet_keras.layers import BatchNormalization, Conv2D
from resnet_keras.layers.batch_norm import _jax_batch_norm
from resnet_keras.layers.convolution import (
    _images_gradient,
    _kernel_gradient,
    _lacks_avx512,
    _large_beside,
)

IMAGES = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7))


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
def test_one_step_is_the_definition(dtype):
    layer = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype)
    layer.build(IMAGES.shape)
    layer.gamma.assign(np.linspace(0.5, 2, 7))
    layer.beta.assign(np.linspace(-1, 1, 7))
    outputs = np.asarray(layer(IMAGES, training=True), "float64")

    mean, biased = IMAGES.mean((0, 1, 2)), IMAGES.var((0, 1, 2))
    expected = (IMAGES - mean) / np.sqrt(biased + 1e-5) * np.linspace(0.5, 2, 7)
    expected += np.linspace(-1, 1, 7)
    # A half has 8 (bfloat16) or 11 (float16) bits; outputs go up to 8.
    bound = {"float32": 1e-5, "float64": 1e-12, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}[
        dtype
    ]
    assert np.abs(outputs - expected).max() < bound
    n = 4 * 5 * 6
    unbiased = IMAGES.var((0, 1, 2)) * n / (n - 1)
    assert np.abs(np.asarray(layer.moving_mean) - 0.1 * mean).max() < bound
    assert np.abs(np.asarray(layer.moving_variance) - (0.9 + 0.1 * unbiased)).max() < bound
    assert layer.moving_mean.dtype == ("float64" if dtype == "float64" else "float32")


def test_gradients_of_batch_norm_are_finite_differences_in_float64():
    import tensorflow as tf

    rng = np.random.default_rng(1)
    images, gamma, beta = rng.normal(3, 2, (2, 3, 2, 4)), rng.uniform(0.5, 2, 4), rng.normal(size=4)
    weights = rng.normal(size=images.shape)

    def loss(x, gamma, beta):
        normalised = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
        return np.sum(weights * (gamma * normalised + beta) ** 2)

    layer = BatchNormalization(epsilon=1e-3, dtype="float64")
    layer.build(images.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    x = tf.Variable(images)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(weights * layer(x, training=True) ** 2)
    assert float(value) == pytest.approx(loss(images, gamma, beta), rel=1e-12)
    found = tape.gradient(value, [x, layer.gamma.value, layer.beta.value])
    for ours, theirs in zip(found, slopes(loss, images, gamma, beta), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def convolved(x, kernel, strides):
    """A convolution without padding, by its definition."""
    (height, width), (down, right) = kernel.shape[:2], strides
    rows = [
        [
            np.tensordot(x[:, i : i + height, j : j + width], kernel, 3)
            for j in range(0, x.shape[2] - width + 1, right)
        ]
        for i in range(0, x.shape[1] - height + 1, down)
    ]
    return np.moveaxis(np.array(rows), 2, 0)


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [(3, (2, 2), "valid"), (1, (2, 2), "same"), ((2, 3), (1, 2), "valid")],
)
def test_gradients_of_a_convolution_are_finite_differences_in_float64(size, strides, padding):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 5, 6, 2))
    layer = Conv2D(3, size, strides=strides, padding=padding, use_bias=False, dtype="float64")
    layer.build(images.shape)
    kernel = rng.normal(size=layer.kernel.shape)
    layer.kernel.assign(kernel)
    weights = rng.normal(size=layer.compute_output_shape(images.shape))

    def loss(x, kernel):
        return np.sum(weights * convolved(x, kernel, strides) ** 2)

    x = tf.Variable(images)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(weights * layer(x) ** 2)
    assert float(value) == pytest.approx(loss(images, kernel), rel=1e-12)
    found = tape.gradient(value, [x, layer.kernel.value])
    for ours, theirs in zip(found, slopes(loss, images, kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_gradients_of_the_kernel_are_those_of_the_definition():
    import tensorflow as tf

    def gradients(dtype):
        layer = BatchNormalization(epsilon=1e-5, dtype=dtype)
        x = tf.Variable(tf.cast(IMAGES, dtype))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        weights = [x, layer.gamma.value, layer.beta.value]
        return [np.asarray(g, "float64") for g in tape.gradient(loss, weights)]

    for fused, composed in zip(gradients("float32"), gradients("float64"), strict=True):
        assert np.abs(fused - composed).max() < 1e-5 * np.abs(composed).max() + 1e-3


def test_inference_and_frozen_layers_are_the_stock_layer():
    ours, stock = BatchNormalization(epsilon=1e-5), keras.layers.BatchNormalization(epsilon=1e-5)
    for layer in (ours, stock):
        layer.build(IMAGES.shape)
        layer.moving_mean.assign(np.arange(7.0))
        layer.moving_variance.assign(np.arange(1.0, 8))
    x = IMAGES.astype("float32")
    assert np.array_equal(ours(x, training=False), stock(x, training=False))
    ours.trainable = False
    assert np.array_equal(ours(x, training=True), stock(x, training=False))


def test_one_value_a_channel_has_no_variance():
    layer = BatchNormalization(epsilon=1e-5, momentum=0.5, dtype="float64")
    layer(np.full((1, 1, 1, 7), 3.0), training=True)
    assert np.array_equal(layer.moving_variance, np.full(7, 0.5))
    assert np.array_equal(layer.moving_mean, np.full(7, 1.5))


def test_the_variance_is_that_of_the_images_of_all_replicas():
    layer = BatchNormalization(replicas=2, momentum=0.5, name="norm")
    again = BatchNormalization.from_config(layer.get_config())
    assert (again.replicas, again.momentum, again.name) == (2, 0.5, "norm")
    n = 2 * 4 * 5 * 6
    assert float(again._unbiased(3.0, IMAGES)) == pytest.approx(3 * n / (n - 1), rel=1e-6)
    assert BatchNormalization().replicas == 1


def test_statistics_that_keras_creates_another_way_are_refused():
    class Moved(BatchNormalization):
        def add_weight(self, *args, **kwargs):
            return keras.layers.Layer.add_weight(self, *args, **kwargs)

    with pytest.raises(RuntimeError, match="differ between replicas.*Received: Keras"):
        Moved().build(IMAGES.shape)


@pytest.mark.parametrize(
    ("dtype", "arguments"),
    [
        ("float64", {"kernel_size": 3, "strides": 2, "padding": "valid"}),
        ("float64", {"kernel_size": 1, "strides": 2, "padding": "same"}),
        ("float64", {"kernel_size": (3, 5), "strides": (3, 2), "padding": "valid"}),
        ("float64", {"kernel_size": 7, "strides": 4, "padding": "valid"}),
        ("bfloat16", {"kernel_size": 3, "padding": "same"}),
        ("bfloat16", {"kernel_size": (5, 3), "padding": "valid"}),
        ("bfloat16", {"kernel_size": 1}),
        ("bfloat16", {"kernel_size": 3, "strides": 2, "padding": "valid"}),
        # Left to the stock layer: their padding, dilation or groups have no products.
        ("float64", {"kernel_size": 3, "strides": 2, "padding": "same"}),
        ("float64", {"kernel_size": 3, "strides": 2, "padding": "valid", "groups": 2}),
        ("bfloat16", {"kernel_size": 3, "padding": "same", "dilation_rate": 2}),
        ("bfloat16", {"kernel_size": 2, "padding": "same"}),
    ],
)
@pytest.mark.parametrize("size", [(8, 11), (13, 9)])
def test_gradients_of_a_convolution_are_those_of_the_stock_layer(dtype, arguments, size):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *size, 4))
    kernel = rng.normal(size=(1, 1, 4 // arguments.get("groups", 1), 6))
    kernel = np.broadcast_to(
        kernel, (*np.broadcast_to(arguments["kernel_size"], 2), *kernel.shape[2:])
    )
    kernel = kernel + rng.normal(size=kernel.shape)

    def gradients(kind, dtype):
        layer = kind(6, use_bias=False, dtype=dtype, **arguments)
        layer.build(images.shape)
        layer.kernel.assign(np.asarray(tf.cast(tf.cast(kernel, "bfloat16"), "float64")))
        x = tf.cast(tf.cast(images, "bfloat16"), dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
            # Of numbers that a bfloat16 holds, so that only products and sums are rounded.
            weights = np.random.default_rng(1).integers(-8, 9, outputs.shape)
            loss = tf.reduce_sum(outputs * tf.cast(weights, dtype))
        found = tape.gradient(loss, [x, layer.kernel.value])
        return [np.asarray(tf.cast(g, "float64")) for g in found]

    bound = {"float64": 1e-14, "bfloat16": 2**-8}[dtype]
    kinds = ((Conv2D, dtype), (keras.layers.Conv2D, dtype), (keras.layers.Conv2D, "float64"))
    for fast, stock, exact in zip(*(gradients(*kind) for kind in kinds), strict=True):
        # TensorFlow adds up in bfloat16 on processors without units for it, and rounds more; the
        # gradient of the images is from its kernel.
        allowed = max(bound * np.abs(exact).max(), np.abs(stock - exact).max())
        assert np.abs(fast - exact).max() <= allowed


def test_small_maps_have_products_for_their_weights():
    """Where the stock layer is slow; of a batch and sizes that only the data know, too."""
    import tensorflow as tf

    def operations(size, dtype="float32", **arguments):
        layer = Conv2D(4, 3, use_bias=False, dtype=dtype, **arguments)
        layer.build((None, size, size, 4))

        @tf.function(input_signature=[tf.TensorSpec((None, size, size, 4), dtype)])
        def gradient(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x))
            return tape.gradient(loss, layer.kernel.value)

        kinds = [op.type for op in gradient.get_concrete_function().graph.get_operations()]
        return kinds.count("MatMul"), kinds.count("Conv2DBackpropFilter")

    strided = {"strides": 2, "padding": "valid"}
    assert operations(16, **strided) == (9, 0)
    assert operations(14, "bfloat16", padding="same") == (9, 0)
    assert operations(14, padding="same") == (0, 1)
    assert operations(30, "bfloat16", padding="same") == (0, 1)
    assert operations(31, **strided) == (0, 1)
    assert operations(None, **strided) == (0, 1)


@pytest.mark.parametrize("size", [(2, 2), (7, 5), (8, 11)])
@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "dilation"),
    [
        ((3, 3), (1, 1), "SAME", (1, 1)),
        ((3, 3), (1, 1), "SAME", (2, 2)),
        ((5, 3), (1, 1), "SAME", (1, 3)),
        ((1, 1), (1, 1), "SAME", (1, 1)),
        ((1, 1), (2, 2), "SAME", (1, 1)),
        ((1, 1), (2, 3), "VALID", (1, 1)),
        ((2, 2), (2, 1), "VALID", (1, 1)),
        ((2, 2), (1, 1), "VALID", (1, 3)),
        ((2, 1), (3, 2), "VALID", (1, 1)),
    ],
)
def test_gradients_by_products_are_those_of_tensorflow(size, kernel, strides, padding, dilation):
    import tensorflow as tf

    span = [1 + d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "VALID" and any(np.less(size, span)):
        size = (8, 11)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *size, 4))
    kernel = rng.normal(size=(*kernel, 4, 5))
    # A kernel with an even edge has no padding here.
    zeros = [n // 2 if padding == "SAME" else 0 for n in span]
    x, weights = tf.Variable(images), tf.Variable(kernel)
    with tf.GradientTape() as tape:
        padded = tf.pad(x, [(0, 0), *((n, n) for n in zeros), (0, 0)])
        outputs = tf.nn.convolution(padded, weights, strides, "VALID", dilations=dilation)
        upstream = rng.normal(size=outputs.shape)
        loss = tf.reduce_sum(outputs * upstream)
    upstream, geometry = tf.constant(upstream), (strides, zeros, dilation)
    found = (
        _images_gradient(size, upstream, weights, *geometry),
        _kernel_gradient(x, upstream, weights.shape, *geometry),
    )
    for ours, theirs in zip(found, tape.gradient(loss, [x, weights]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_products_for_images_are_where_the_kernel_is_large_beside_the_map():
    """By measurements with AVX2: input gradient against product, in ms, are in the comments."""
    assert _large_beside((3, 3, 512, 512), (2, 2))  # 936, 33
    assert _large_beside((3, 3, 512, 512), (14, 14))
    assert _large_beside((3, 3, 256, 256), (8, 8))  # 111, 78
    assert not _large_beside((3, 3, 256, 256), (14, 14))  # 230, 235
    assert not _large_beside((3, 3, 64, 64), (8, 8))  # 3.1, 2.2, before the results are added up
    assert _large_beside((3, 3, 48, 64), (2, 3))  # 512 weights at a place for each output
    assert not _large_beside((3, 3, 48, 63), (2, 3))
    assert _large_beside((1, 1, 64, 64), (56, 56))
    assert not _large_beside((1, 3, 64, 64), (56, 56))
    assert not _large_beside((3, 1, 64, 64), (56, 56))
    assert [_lacks_avx512(flags) for flags in ({"avx2"}, {"avx2", "avx512f"}, set())] == [
        True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_image_gradients_are_products_only_in_float32_and_without_avx512(dtype, dilation):
    import tensorflow as tf

    arguments = {"padding": "same", "dilation_rate": dilation, "use_bias": False}
    layer = Conv2D(128, 3, dtype=dtype, **arguments)
    layer.build((None, 4, 4, 128))

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 128), dtype)])
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, [x, layer.kernel.value])

    kinds = [op.type for op in gradients.get_concrete_function().graph.get_operations()]
    products = dtype == "float32" and _lacks_avx512(cpu_flags())
    assert kinds.count("Conv2DBackpropInput") == (0 if products else 1)
    of_kernel = dtype == "bfloat16" if dilation == 1 else products
    assert kinds.count("Conv2DBackpropFilter") == (0 if of_kernel else 1)


def _definition(x, gamma, beta):
    """Batch norm of `(n, h, w, c)` and its gradients for an upstream gradient of 3 y^2."""
    n = x.size // x.shape[-1]
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    inverse = 1 / np.sqrt(variance + 1e-5)
    normalised = (x - mean) * inverse
    outputs = normalised * gamma + beta
    upstream = 3 * outputs**2
    to_normalised = upstream * gamma
    # Ioffe and Szegedy 2015, section 3: the gradients in their order.
    to_variance = (to_normalised * (x - mean) * -0.5 * inverse**3).sum((0, 1, 2))
    to_mean = -(to_normalised * inverse).sum((0, 1, 2))
    to_mean += to_variance * (-2 * (x - mean)).mean((0, 1, 2))
    to_x = to_normalised * inverse + to_variance * 2 * (x - mean) / n + to_mean / n
    return outputs, to_x, (upstream * normalised).sum((0, 1, 2)), upstream.sum((0, 1, 2))


def test_the_function_for_jax_and_its_gradients_are_those_of_the_paper():
    """Which JAX computes in any process."""
    import jax
    from jax import numpy as jnp

    images = (IMAGES - 3) * np.geomspace(0.05, 1, 7) + 3  # some channels hardly vary
    gamma, beta = np.linspace(0.5, 2, 7), np.linspace(-1, 1, 7)
    shift = np.linspace(2, 4, 7)  # must not matter

    def outputs(*arguments):
        return _jax_batch_norm()(*arguments, 1e-5)

    arguments = [jnp.asarray(a, "float32") for a in (images, gamma, beta, shift)]
    found, mean, variance = jax.jit(outputs)(*arguments)
    gradients = jax.jit(jax.grad(lambda *each: (outputs(*each)[0] ** 3).sum(), (0, 1, 2, 3)))(
        *arguments
    )
    for ours, wanted in zip((found, *gradients), _definition(images, gamma, beta), strict=False):
        assert np.abs(np.asarray(ours) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert not np.asarray(gradients[3]).any()
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, images.var((0, 1, 2)), rtol=1e-4)
    # A channel without variance, far from the shift: rounding must not make it negative.
    flat = [jnp.full((4, 5, 6, 7), 3.3), *arguments[1:]]
    assert (np.asarray(jax.jit(outputs)(*flat)[2]) >= 0).all()
    half = [arguments[0].astype("bfloat16"), *arguments[1:]]
    kinds = [each.dtype for each in jax.jit(outputs)(*half)]
    assert kinds == ["bfloat16", "float32", "float32"]
    # It computes in the type of gamma.
    kinds = [each.dtype for each in outputs(*(each.astype("float16") for each in arguments))]
    assert kinds == ["float16"] * 3
    loss = jax.jit(lambda x: outputs(x, *half[1:])[0].sum().astype("float32"))
    upstream = jax.grad(loss)(half[0])
    assert upstream.dtype == "bfloat16"


ON_JAX = """
import keras, numpy as np
from resnet_keras.layers import BatchNormalization, Conv2D

assert keras.backend.backend() == "jax"
images = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7)).astype("float32")
layer = BatchNormalization(momentum=0.75, epsilon=1e-5)
layer.build(images.shape)
layer.gamma.assign(np.linspace(0.5, 2, 7))
layer.beta.assign(np.linspace(-1, 1, 7))
outputs = np.asarray(layer(images, training=True))
mean, variance = images.mean((0, 1, 2)), images.var((0, 1, 2))
wanted = (images - mean) / np.sqrt(variance + 1e-5) * np.linspace(0.5, 2, 7) + np.linspace(-1, 1, 7)
assert np.abs(outputs - wanted).max() < 1e-5
assert np.abs(np.asarray(layer.moving_mean) - 0.25 * mean).max() < 1e-5
unbiased = 0.75 + 0.25 * variance * 120 / 119
assert np.abs(np.asarray(layer.moving_variance) - unbiased).max() < 1e-5
ours, stock = (kind(2, 3, strides=2, padding="valid") for kind in (Conv2D, keras.layers.Conv2D))
ours.build(images.shape)
stock.build(images.shape)
stock.set_weights(ours.get_weights())
assert np.array_equal(ours(images), stock(images))
"""


def test_the_layers_on_jax(run_python):
    done = run_python("-c", ON_JAX, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr


jax_only = pytest.mark.skipif(keras.backend.backend() != "jax", reason="runs in a process of JAX")


@jax_only
@pytest.mark.parametrize("dtype, bound", [("float64", 1e-12), ("float32", 2e-5)])
def test_gradients_on_jax_are_those_of_the_paper(dtype, bound):
    import jax

    gamma, beta = np.linspace(0.5, 2, 7), np.linspace(-1, 1, 7)
    layer = BatchNormalization(epsilon=1e-5, dtype=dtype)
    layer.build(IMAGES.shape)
    layer.moving_mean.assign(np.linspace(2, 4, 7))  # the shift must not matter

    def loss(x, gamma, beta):
        trained = [gamma, beta]
        outputs, _ = layer.stateless_call(trained, layer.non_trainable_variables, x, training=True)
        return (outputs**3).sum(), outputs

    arguments = [np.asarray(a, dtype) for a in (IMAGES, gamma, beta)]
    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arguments)
    for found, wanted in zip((outputs, *gradients), _definition(IMAGES, gamma, beta), strict=True):
        assert np.abs(np.asarray(found) - wanted).max() <= bound * np.abs(wanted).max()


@jax_only
def test_statistics_on_jax_survive_a_mean_far_from_zero():
    layer = BatchNormalization(dtype="float32", momentum=0.0)
    layer.build(IMAGES.shape)
    x = (IMAGES + 5000).astype("float32")
    layer.moving_mean.assign(np.full(7, 5000.0))
    layer(x, training=True)
    n = 4 * 5 * 6
    unbiased = x.astype("float64").var((0, 1, 2)) * n / (n - 1)
    # The squares are 2.5e7, where float32 counts by 2: their difference would be wrong by 1.
    assert np.abs(np.asarray(layer.moving_variance) - unbiased).max() < 1e-3


@pytest.mark.slow
def test_jax_computes_the_same(run_python):
    done = run_python(
        "-m", "pytest", "-o", "addopts=", __file__,
        "-k", "one_step or on_jax or frozen or one_value",
        KERAS_BACKEND="jax", JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " 9 passed" in done.stdout and "skipped" not in done.stdout


def test_products_are_for_cpus_on_tensorflow(monkeypatch):
    import tensorflow as tf

    layer = Conv2D(4, 1, dtype="mixed_bfloat16")
    layer.build((None, 7, 7, 4))
    images = tf.zeros((2, 7, 7, 4))
    assert layer._products(images) == (False, True)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("keras.backend.backend", lambda: "jax")
        assert layer._products(images) == (False, False)
    present = {"GPU": ["a GPU"]}
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: present[kind])
    assert layer._products(images) == (False, False)
