"""What a step does differently on TensorFlow and on JAX."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops


def summed(gradients: list) -> list:
    """Sum gradients over the replicas; on JAX a batch is one array, on all of them."""
    if keras.backend.backend() != "tensorflow":
        return gradients
    import tensorflow as tf  # not above: with the JAX backend there may be no TensorFlow

    context = tf.distribute.get_replica_context()
    if context is None:  # outside of `strategy.run` there is one gradient
        return gradients
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)


def behind(tensor: Any) -> AbstractContextManager:
    """Let what is computed within wait for a tensor.

    TensorFlow would else compute what reads variables only, such as the decay of each, before the
    forward pass, and keep it in memory all the while.
    """
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    return tf.control_dependencies([tensor])


def copied(variable: keras.Variable) -> Any:
    """Return a variable's value, which does not change when the variable does."""
    if keras.backend.backend() == "tensorflow":
        # A tensor first: a variable that lives on several replicas is not an array.
        return np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable)))
    return variable.value  # values of other backends never change
