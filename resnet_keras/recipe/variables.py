"""The names of a network's trainable variables, without building it."""

from resnet_keras.specs import Spec


def trainable_variables(spec: Spec, *, folded: bool = False) -> list[str]:
    """Return the paths of a network's trainable variables, such as `conv1_bn/gamma`.

    They are those of `keras.applications`, and part of the contract of the models.

    Args:
        spec: the network.
        folded: whether batch norm is folded into the convolutions, as for int8.
    """
    names = []
    for conv in _convolutions(spec):
        kinds = ("conv/kernel", "conv/bias") if folded else ("conv/kernel", "bn/gamma", "bn/beta")
        names += [f"{conv}_{kind}" for kind in kinds]
    return [*names, "predictions/kernel", "predictions/bias"]


def _convolutions(spec: Spec) -> list[str]:
    """The names of the convolutions, each of which has a batch norm."""
    names = ["conv1_1", "conv1_2", "conv1_3"] if spec.stem == "deep" else ["conv1"]
    channels = spec.widths[0]
    for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        for block in range(depth):
            strided = stage > 0 and block == 0
            changed = strided or channels != width * spec.expansion
            channels = width * spec.expansion
            numbers = range(1, 3 if spec.block == "basic" else 4)
            if changed and spec.shortcut == "projection":
                numbers = range(numbers.stop)
            names += [f"conv{stage + 2}_block{block + 1}_{number}" for number in numbers]
    return names
