"""Batch norm with the arithmetic of PyTorch."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops


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
