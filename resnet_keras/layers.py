"""Faster layers for training; `export` puts the stock layers back in."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
from keras import ops

from resnet_keras.devices import cpu_flags
from resnet_keras.internals.keras import calls, producer, readers

# Height and width of the largest map on which oneDNN's kernels for weight gradients are slow.
_SMALL = 14


class Conv2D(keras.layers.Conv2D):
    """A convolution that computes its gradients by matrix products where oneDNN is slow.

    On a CPU, oneDNN 3.7 in TensorFlow 2.21 has half to a third of a matrix product's speed, and
    less, for

    - weight gradients on small maps, in bfloat16, and in every type where there are strides;
    - image gradients in float32 on a processor without AVX-512, of kernels that are large beside
      their maps: it reads all of the kernel again for each image. On maps of 7x7 with 512 channels
      that is a fifth of the product's speed, on 2x2 a thirtieth.

    In all other cases, on other backends and on other devices, this is the stock layer.

    Args:
        recompute: what this layer alone reads, where that is batch norm, ReLU and padding of the
            outputs of another layer, is not kept for the backward pass, but computed again (Rota
            Bulo et al. 2018, "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs",
            figure 2 (b)). The numbers are the same, the memory is less, a step takes a little
            longer. On TensorFlow only, within a `tf.function`, and where batch norm is
            FusedBatchNormV3.
        **arguments: of `keras.layers.Conv2D`.
    """

    def __init__(self, *args: Any, recompute: bool = False, **arguments: Any):
        super().__init__(*args, **arguments)
        self.recompute = recompute

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "recompute": self.recompute}

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve `(n, h, w, c)` with `(height, width, c, filters)`."""
        steps = _steps_from_batch_norm(inputs) if norm_computed_again(self) else []
        return (
            _recomputing(self._convolve, steps, kernel) if steps else self._convolve(inputs, kernel)
        )

    def _convolve(self, inputs: Any, kernel: Any) -> Any:
        """The same, where what it reads is kept."""
        of_images, of_kernel = self._products(inputs)
        if not (of_images or of_kernel):
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf  # not above: with the JAX backend there may be no TensorFlow

        convolve = super().convolution_op
        stock = {"strides": (1, *self.strides, 1), "padding": self.padding.upper()}
        # Zeros above and below, and on the left and on the right.
        same = self.padding == "same"
        padding = [
            dilation * (n // 2) if same else 0
            for n, dilation in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]

        @tf.custom_gradient
        def convolution(images, kernel):
            def gradients(upstream):
                geometry = (self.strides, padding, self.dilation_rate)
                if of_images:
                    to_images = _images_gradient(images.shape[1:3], upstream, kernel, *geometry)
                else:
                    to_images = tf.raw_ops.Conv2DBackpropInput(
                        input_sizes=tf.shape(images), filter=kernel, out_backprop=upstream, **stock
                    )
                if of_kernel:
                    to_kernel = _kernel_gradient(images, upstream, kernel.shape, *geometry)
                else:
                    to_kernel = tf.raw_ops.Conv2DBackpropFilter(
                        input=images, filter_sizes=kernel.shape, out_backprop=upstream, **stock
                    )
                return to_images, to_kernel

            return convolve(images, kernel), gradients

        return convolution(tf.cast(inputs, self.compute_dtype), tf.cast(kernel, self.compute_dtype))

    def _products(self, inputs: Any) -> tuple[bool, bool]:
        """Which gradients are products: that of the images, and that of the kernel."""
        if keras.backend.backend() != "tensorflow":
            return False, False
        import tensorflow as tf

        size = self.compute_output_shape(inputs.shape)[1:3]
        # With padding, the products are for strides of 1 and odd kernels only.
        same_around = self.strides == (1, 1) and all(n % 2 for n in self.kernel_size)
        unpadded = self.padding == "valid" or self.kernel_size == (1, 1)
        known = self.groups == 1 and (unpadded or same_around) and None not in size
        if not known or tf.config.list_physical_devices("GPU"):
            return False, False
        of_images = self.compute_dtype == "float32" and _lacks_avx512(cpu_flags())
        of_images = of_images and _large_beside(self.kernel.shape, size)
        if self.dilation_rate != (1, 1):  # for which TensorFlow's own gradients are not to be had
            return of_images, of_images
        slow = self.compute_dtype == "bfloat16" or self.strides != (1, 1)
        return of_images, slow and max(size) <= _SMALL


def norm_computed_again(layer: keras.Layer) -> keras.layers.BatchNormalization | None:
    """Find the batch norm that a convolution of a model computes again in the backward pass.

    Args:
        layer: any. Only a `Conv2D` with `recompute` computes something again, where nothing else
            reads it: else it would be kept all the same, and two parts of a gradient would be
            rounded before they are added.

    Returns:
        The layer; None where there is none.
    """
    if not (isinstance(layer, Conv2D) and layer.recompute and calls(layer) == 1):
        return None
    before = producer(layer.input)
    while _is_relu(before) or isinstance(before, keras.layers.ZeroPadding2D):
        if readers(before) != 1:
            return None
        before = producer(before.input)
    normalises = isinstance(before, keras.layers.BatchNormalization) and readers(before) == 1
    return before if normalises else None


def _is_relu(layer: keras.Operation) -> bool:
    """Whether a layer is `Activation("relu")`."""
    activation = isinstance(layer, keras.layers.Activation)
    return activation and layer.activation is keras.activations.relu


def _steps_from_batch_norm(tensor: Any) -> list[Any]:
    """List the cheap operations that made a tensor of a TensorFlow graph, batch norm the first.

    Returns:
        A training's FusedBatchNormV3 and each `Relu` and `Pad` after it; an empty list where the
        tensor was made in another way, or belongs to no graph.
    """
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    steps: list[Any] = []
    if not tf.is_tensor(tensor) or not tf.is_symbolic_tensor(tensor):
        return steps
    while tensor.op.type in ("Relu", "Pad"):
        steps.insert(0, tensor.op)
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "FusedBatchNormV3" or not tensor.op.get_attr("is_training"):
        return []
    return [tensor.op, *steps] if tensor.op.get_attr("data_format") == b"NHWC" else []


def _recomputing(convolve: Callable[[Any, Any], Any], steps: Sequence[Any], kernel: Any) -> Any:
    """Convolve the outputs of some operations, which the backward pass computes again.

    The gradient goes from the convolution to the batch norm's own arguments at once, past the
    operations of the forward pass: if they had one, it would keep their outputs.

    Args:
        convolve: of images and a kernel.
        steps: as `_steps_from_batch_norm` lists them.
        kernel: `(height, width, c, filters)`.
    """
    import tensorflow as tf

    norm, *others = steps
    epsilon = norm.get_attr("epsilon")

    def again(images, gamma, beta, kernel):
        none = tf.zeros([0])
        images = tf.raw_ops.FusedBatchNormV3(
            x=images, scale=gamma, offset=beta, mean=none, variance=none, epsilon=epsilon
        ).y
        for step in others:
            images = tf.nn.relu(images) if step.type == "Relu" else tf.pad(images, step.inputs[1])
        return convolve(images, kernel)

    @tf.custom_gradient
    def convolution(*arguments):
        def gradients(upstream):
            # Not before the backward pass is here; else its results would be kept from the start.
            with tf.control_dependencies([upstream]):
                arguments_then = [tf.identity(argument) for argument in arguments]
            with tf.GradientTape() as tape:
                tape.watch(arguments_then)
                # TensorFlow leaves out the convolution itself, which no gradient reads.
                outputs = again(*arguments_then)
            return tape.gradient(outputs, arguments_then, upstream)

        return convolve(steps[-1].outputs[0], arguments[-1]), gradients

    return convolution(*norm.inputs[:3], tf.convert_to_tensor(kernel))


def _lacks_avx512(flags: Collection[str]) -> bool:
    """Whether a processor is one of those on which `_large_beside` was measured."""
    return "avx2" in flags and "avx512f" not in flags


def _large_beside(kernel: Sequence[int], size: Sequence[int]) -> bool:
    """Whether products are faster for the gradient of the images, by what was measured.

    Args:
        kernel: its shape, `(height, width, c, filters)`.
        size: height and width of the outputs.
    """
    height, width, channels, filters = kernel
    # One product, of which nothing is copied; or several, whose results are added up.
    return height == width == 1 or channels * filters >= 512 * size[0] * size[1]


def _images_gradient(
    size: Sequence[int],
    upstream: Any,
    kernel: Any,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Any:
    """Compute the gradient of a convolution's images: one product for each place of the kernel.

    Args:
        size: height and width of the images.
        upstream: `(n, rows, columns, filters)`, the gradient of the outputs.
        kernel: `(height, width, c, filters)`.
        strides: of rows and of columns.
        padding: number of zeros above and below, and of those on the left and on the right.
        dilation: of rows and of columns.

    Returns:
        `(n, height, width, c)`, of the dtype of `kernel`.
    """
    import tensorflow as tf

    height, width, channels, filters = kernel.shape
    rows, columns = upstream.shape[1:3]
    (down, right), (top, left) = strides, padding
    # Rows and columns in groups of a stride, as in `_kernel_gradient`; rounded up.
    tall, wide = -(-(size[0] + 2 * top) // down), -(-(size[1] + 2 * left) // right)
    upstream = tf.reshape(upstream, (-1, filters))
    parts: dict[tuple[int, int], list[Any]] = {}
    for i in range(height):
        for j in range(width):
            (y, a), (x, b) = divmod(i * dilation[0], down), divmod(j * dilation[1], right)
            product = tf.matmul(upstream, kernel[i, j], transpose_b=True)
            product = tf.reshape(product, (-1, rows, columns, channels))
            around = [(0, 0), (y, tall - rows - y), (x, wide - columns - x), (0, 0)]
            parts.setdefault((a, b), []).append(tf.pad(product, around))
    nothing = tf.zeros_like(parts[0, 0][0]) if len(parts) < down * right else None
    sums = [
        [tf.add_n(parts[a, b]) if (a, b) in parts else nothing for b in range(right)]
        for a in range(down)
    ]
    # From (n, tall, wide, c) of each place in a group to (n, tall * down, wide * right, c).
    gradient = tf.stack([tf.stack(of_row, 3) for of_row in sums], 2)
    gradient = tf.reshape(gradient, (-1, tall * down, wide * right, channels))
    return gradient[:, top : top + size[0], left : left + size[1]]


def _kernel_gradient(
    images: Any,
    upstream: Any,
    shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Any:
    """Compute the gradient of a convolution's kernel: one matrix product for each of its places.

    Args:
        images: `(n, h, w, c)`.
        upstream: `(n, rows, columns, filters)`, the gradient of the outputs.
        shape: of the kernel, `(height, width, c, filters)`.
        strides: of rows and of columns.
        padding: number of zeros above and below, and of those on the left and on the right.
        dilation: of rows and of columns.

    Returns:
        A tensor of `shape` and of the dtype of `images`.
    """
    import tensorflow as tf

    height, width, channels, filters = shape
    rows, columns = upstream.shape[1:3]
    # Rows and columns in groups of a stride: a place of the kernel then reads one slice without
    # gaps. TensorFlow's slices with gaps cost more than the products.
    (down, right), (top, left) = strides, padding
    bottom = top + -(images.shape[1] + 2 * top) % down
    end = left + -(images.shape[2] + 2 * left) % right
    images = tf.pad(images, [(0, 0), (top, bottom), (left, end), (0, 0)])
    groups = (images.shape[1] // down, down, images.shape[2] // right, right * channels)
    images = tf.reshape(images, (-1, *groups))
    upstream = tf.reshape(upstream, (-1, filters))
    products = []
    for i in range(height):
        for j in range(width):
            (y, a), (x, b) = divmod(i * dilation[0], down), divmod(j * dilation[1], right)
            begin = (0, y, a, x, b * channels)
            seen = tf.slice(images, begin, (-1, rows, 1, columns, channels))
            seen = tf.reshape(seen, (-1, channels))
            products.append(tf.matmul(seen, upstream, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm (Ioffe and Szegedy 2015) with the arithmetic of PyTorch, in one fused kernel.

    It differs from the stock layer in training only:

    - the running variance is the unbiased one (divided by n - 1), as in PyTorch and cuDNN;
    - on TensorFlow, float32, float16 and bfloat16 run in one kernel, FusedBatchNormV3;
    - on JAX, each of its passes reads the images once (see `_jax_batch_norm`);
    - under a strategy the running statistics are the mean over the replicas, in every replica, so
      that what was evaluated is what is saved (in stock Keras each replica keeps its own).

    Args:
        replicas: number of replicas over which the batch's statistics are computed where they are
            `synchronized`.
        **arguments: of `keras.layers.BatchNormalization`; `axis` must be the last one.
    """

    def __init__(self, *, replicas: int = 1, **arguments: Any):
        super().__init__(**arguments)
        self.replicas = replicas

    def build(self, input_shape: Any) -> None:
        """Create the variables.

        Raises:
            RuntimeError: Keras created the statistics without `add_weight`.
        """
        super().build(input_shape)
        if {self.moving_mean.aggregation, self.moving_variance.aggregation} != {"mean"}:
            raise RuntimeError(
                "the running statistics would differ between replicas: Keras created them without "
                f"`add_weight(trainable=False)`. Received: Keras {keras.__version__}"
            )

    def add_weight(self, *args: Any, trainable: bool = True, **kwargs: Any) -> keras.Variable:
        """Create a variable; the running statistics are averaged over the replicas."""
        if not trainable:
            kwargs["aggregation"] = "mean"
        return super().add_weight(*args, trainable=trainable, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise `(n, h, w, c)`; in training by the batch's statistics, which are recorded."""
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        if self._fusable():
            outputs, mean, variance = self._fused(inputs)
        elif keras.backend.backend() == "jax":
            outputs, mean, variance = self._on_jax(inputs)
        else:
            outputs, mean, variance = self._composed(inputs)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = ops.cast(batch, moving.dtype)
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "replicas": self.replicas}

    def _fusable(self) -> bool:
        """Whether FusedBatchNormV3 can compute it, which has no float64 and sees one replica."""
        fusable = self.compute_dtype in ("float32", "float16", "bfloat16")
        return keras.backend.backend() == "tensorflow" and fusable and not self.synchronized

    def _fused(self, inputs: Any) -> tuple[Any, Any, Any]:
        """Outputs, mean and unbiased variance of the batch, from one kernel."""
        import tensorflow as tf  # not above: with the JAX backend there may be no TensorFlow

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        return outputs, mean, variance

    def _on_jax(self, inputs: Any) -> tuple[Any, Any, Any]:
        """The same with a gradient of our own."""
        images = ops.cast(inputs, self.compute_dtype)
        gamma, beta, shift = (
            ops.convert_to_tensor(v) for v in (self.gamma, self.beta, self.moving_mean)
        )
        outputs, mean, variance = _jax_batch_norm()(images, gamma, beta, shift, self.epsilon)
        return outputs, mean, self._unbiased(variance, inputs)

    def _composed(self, inputs: Any) -> tuple[Any, Any, Any]:
        """The same from separate operations."""
        wide = self.variable_dtype
        axes = tuple(range(len(inputs.shape) - 1))
        x = ops.cast(inputs, wide)
        mean, variance = ops.moments(x, axes=axes, synchronized=self.synchronized)
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        outputs = (x - mean) * scale + self.beta
        return ops.cast(outputs, self.compute_dtype), mean, self._unbiased(variance, inputs)

    def _unbiased(self, variance: Any, inputs: Any) -> Any:
        """The variance divided by n - 1 rather than n; that of a single value is 0."""
        shape = ops.shape(inputs)[:-1]
        examples = ops.cast(ops.prod(shape) * self.replicas, self.variable_dtype)
        return variance * (examples / ops.maximum(examples - 1.0, 1.0))


@functools.cache
def _jax_batch_norm() -> Callable[..., tuple[Any, Any, Any]]:
    """Make batch norm for JAX: of `(..., c)`, gamma, beta, shift (each `(c,)`) and epsilon.

    XLA computes sums over the same array in one pass, but not a variance that first needs the mean,
    as in `jax.numpy.var`. So the forward pass sums `x - shift` and its square; with the running
    mean as the shift nothing cancels that matters (Chan, Golub and LeVeque 1983, section 2). On an
    H200 a step of ResNet-50 is faster by a tenth than with `var` (results/gpu/h200.json). The
    gradient is the one of Ioffe and Szegedy 2015, section 3, from the sums of the upstream gradient
    and of its product with the normalised values.

    Returns:
        The function; it returns the outputs, the mean and the biased variance. No gradient flows
        through the latter two.
    """
    import jax
    from jax import numpy as jnp

    def wide(x, gamma):
        return x.astype(gamma.dtype)

    def forward(x, gamma, beta, shift, epsilon):
        axes = tuple(range(x.ndim - 1))
        centred = wide(x, gamma) - shift
        offset = jnp.mean(centred, axes)
        # Rounding must not make it negative.
        variance = jnp.maximum(jnp.mean(jnp.square(centred), axes) - jnp.square(offset), 0.0)
        mean = offset + shift
        inverse = jax.lax.rsqrt(variance + epsilon)
        outputs = (wide(x, gamma) - mean) * (inverse * gamma) + beta
        return (outputs.astype(x.dtype), mean, variance), (x, gamma, mean, inverse)

    def backward(epsilon, kept, upstream):
        x, gamma, mean, inverse = kept
        axes = tuple(range(x.ndim - 1))
        gradient = wide(upstream[0], gamma)
        normalised = (wide(x, gamma) - mean) * inverse
        to_beta = jnp.sum(gradient, axes)
        to_gamma = jnp.sum(gradient * normalised, axes)
        number = x.size // x.shape[-1]
        to_x = (gradient - (to_beta + normalised * to_gamma) / number) * (gamma * inverse)
        return to_x.astype(x.dtype), to_gamma, to_beta, jnp.zeros_like(mean)

    function = jax.custom_vjp(lambda *arguments: forward(*arguments)[0], nondiff_argnums=(4,))
    function.defvjp(forward, backward)
    return function
