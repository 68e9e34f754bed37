"""Convolutions with gradients by matrix products, and of inputs that are computed again."""

from collections.abc import Collection, Sequence
from typing import Any

import keras

from resnet_keras.devices import cpu_flags
from resnet_keras.layers.recompute import norm_computed_again, recomputing, steps_from_batch_norm

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
            outputs of another layer, is not kept for the backward pass, but computed again: the
            "checkpointing" of Rota Bulo et al. 2018, "In-Place Activated BatchNorm for
            Memory-Optimized Training of DNNs". The numbers are the same, the memory is less, a step
            takes a little longer. On TensorFlow only, within a `tf.function`, and where batch norm
            is FusedBatchNormV3.
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
        steps = steps_from_batch_norm(inputs) if norm_computed_again(self) else []
        return (
            recomputing(self._convolve, steps, kernel) if steps else self._convolve(inputs, kernel)
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
