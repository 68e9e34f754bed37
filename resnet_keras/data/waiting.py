"""How long whoever reads batches waits for them."""

import time

import tensorflow as tf


class Waiting:
    """Counts the seconds in which a reader of `measured` batches has waited for them.

    Attributes:
        seconds: in all, of all readers.
    """

    def __init__(self):
        self.seconds = 0.0

    def measured(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Return the same batches, which count how long each one lets its reader wait.

        Args:
            batches: that are prefetched, or all of the work would be counted as waiting.
        """
        # A `zip` asks for its parts one after the other, in the reader's thread.
        # Python's clock, because TensorFlow refuses its own where operations are deterministic.
        now = tf.data.Dataset.counter().map(
            lambda _: tf.numpy_function(time.perf_counter, [], tf.float64, stateful=True)
        )

        def count(asked: tf.Tensor, batch: tuple, given: tf.Tensor) -> tuple:
            done = tf.numpy_function(self._add, [given - asked], tf.bool, stateful=True)
            with tf.control_dependencies([done]):
                return tf.nest.map_structure(tf.identity, batch)

        return tf.data.Dataset.zip(now, batches, now).map(count)

    def _add(self, seconds: float) -> bool:
        self.seconds += float(seconds)
        return True
