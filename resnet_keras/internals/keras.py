"""Private names of Keras: how layers are connected. Tested with Keras 3.15."""

import keras


def producer(tensor: keras.KerasTensor) -> keras.Operation:
    """Return the layer or operation that a symbolic tensor is an output of."""
    # `_keras_history`: (operation, node, tensor). `keras.utils.get_source_inputs` goes to the
    # beginning of the graph only.
    return tensor._keras_history.operation


def producer_inputs(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Return what the layer or operation took that a symbolic tensor is an output of."""
    # An operation that several models share has one node for each: `operation.input` is the first.
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


def calls(layer: keras.Operation) -> int:
    """Count how often a layer was called on symbolic tensors, in all models it is part of."""
    # `_inbound_nodes`: one for each call. The public `layer.input` raises where there are several.
    return len(layer._inbound_nodes)


def readers(layer: keras.Operation) -> int:
    """Count the calls that take an output of a layer, in all models it is part of."""
    # `_outbound_nodes`: one for each.
    return len(layer._outbound_nodes)
