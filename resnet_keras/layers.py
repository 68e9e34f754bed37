"""The fast training twin of Keras' batch normalisation; `export` swaps the stock layer back in."""

import keras
from keras import ops


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch norm (Ioffe and Szegedy 2015) with the arithmetic of PyTorch, in one fused kernel.

    It differs from the stock layer in training only:

    - the running variance is the unbiased one (divided by n - 1), as in PyTorch and cuDNN;
    - on TensorFlow, float32 and halves run in the one kernel FusedBatchNormV3;
    - under a strategy the running statistics are the mean over the replicas, in every replica, so
      that what was evaluated is what is saved (stock Keras lets each replica keep its own).

    Args:
        replicas: number of replicas that `synchronized` statistics run over.
        **arguments: those of `keras.layers.BatchNormalization`; `axis` must be the last one.
    """

    def __init__(self, *, replicas: int = 1, **arguments):
        super().__init__(**arguments)
        self.replicas = replicas

    def add_weight(self, *args, trainable: bool = True, **kwargs):
        """Create a variable; those of the statistics are averaged over the replicas."""
        if not trainable:
            kwargs["aggregation"] = "mean"
        return super().add_weight(*args, trainable=trainable, **kwargs)

    def call(self, inputs, training=None, mask=None):
        """Normalise `(n, h, w, c)`; in training by the batch's statistics, recorded."""
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        if self._fusable():
            outputs, mean, variance = self._fused(inputs)
        else:
            outputs, mean, variance = self._composed(inputs)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = ops.cast(batch, moving.dtype)
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {**super().get_config(), "replicas": self.replicas}

    def _fusable(self) -> bool:
        """Whether FusedBatchNormV3 computes what is asked for: it knows no float64, no replicas."""
        fusable = self.compute_dtype in ("float32", "float16", "bfloat16")
        return keras.backend.backend() == "tensorflow" and fusable and not self.synchronized

    def _fused(self, inputs):
        """Outputs, batch mean and unbiased batch variance, from one kernel."""
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

    def _composed(self, inputs):
        """The same from separate operations."""
        wide = self.variable_dtype
        axes = tuple(range(len(inputs.shape) - 1))
        x = ops.cast(inputs, wide)
        mean, variance = ops.moments(x, axes=axes, synchronized=self.synchronized)
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        outputs = (x - mean) * scale + self.beta
        examples = ops.cast(ops.prod(ops.shape(inputs)[:-1]) * self.replicas, wide)
        # One value alone has no other variance than 0.
        unbiased = variance * (examples / ops.maximum(examples - 1.0, 1.0))
        return ops.cast(outputs, self.compute_dtype), mean, unbiased
