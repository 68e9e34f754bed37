"""The stages of a network, found by its layers' names: feature pyramids, and what is frozen."""

import re
from collections.abc import Mapping, Sequence

import keras

from resnet_keras.errors import InputError


@keras.saving.register_keras_serializable("resnet_keras")
class FeaturePyramid(keras.Model):
    """The model that `features` gives; detectors of KerasHub and keras-cv ask for its properties.

    They say "P2" for what papers call C2: the output of stride 4 (with the ImageNet stems).
    """

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """KerasHub's: the output tensor of each level, "P2".."P5"."""
        return {_pyramid_level(level): tensor for level, tensor in self.output.items()}

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """keras-cv's: the name of the layer that ends each level, "P2".."P5"."""
        # This module is imported right behind Keras; see `registration`.
        from resnet_keras.internals.keras import producer

        return {_pyramid_level(level): producer(x).name for level, x in self.output.items()}


def features(
    model: keras.Model,
    levels: Sequence[str] | Mapping[str, str] = ("C2", "C3", "C4", "C5"),
    *,
    any_size: bool = True,
) -> FeaturePyramid:
    """Return the feature pyramid of a ResNet, for detection, segmentation and pose.

    Args:
        model: a model of `ResNet`, with or without its top. The result shares its layers, and so
            their weights and their `trainable`.
        levels: any of "C1" (the stem before its max pool) and "C2".. (the end of each stage). Or
            a mapping from other names to these, for a detector that expects "P2" elsewhere than at
            the end of the second stage: `{"P2": "C1", "P5": "C5"}`.
        any_size: the result takes images of any size, whatever the model does. False: it takes
            those that the model takes. keras-cv looks up layers by name, and so needs this, or a
            model built for any size, with `input_shape=(None, None, 3)`.

    Returns:
        A model from `(batch, height, width, channels)` to a dict of
        `(batch, height / stride, width / stride, channels)`, keyed by level. It has KerasHub's
        `pyramid_outputs` and keras-cv's `pyramid_level_inputs`, can be saved, loaded again where
        `resnet_keras` is imported, and cloned.

    Raises:
        InputError: (a ValueError) a level that the model does not have, or several inputs.
    """
    named = levels if isinstance(levels, Mapping) else {level: level for level in levels}
    ends = level_ends(model)
    if not named or any(level not in ends for level in named.values()):
        received = dict(levels) if isinstance(levels, Mapping) else tuple(levels)
        raise InputError(
            f"`levels` must be among {', '.join(sorted(ends))}. Received: levels={received}"
        )
    if len(model.inputs) != 1:
        raise InputError(
            f"`model` must have one input. Received: {len(model.inputs)} inputs of {model.name}"
        )
    (images,) = model.inputs
    outputs = {name: model.get_layer(ends[level]).output for name, level in named.items()}
    pyramid = FeaturePyramid(images, outputs, name=f"{model.name}_features")
    if images.shape[1:3] == (None, None) or not any_size:
        return pyramid
    input_ = keras.Input((None, None, images.shape[-1]), dtype=images.dtype, name=images.name)
    return keras.models.clone_model(
        pyramid, input_tensors=input_, clone_function=lambda layer: layer
    )


def freeze(model: keras.Model, stages: int, *, norm_eval: bool = False) -> None:
    """Freeze the first layers of a ResNet, as OpenMMLab's `frozen_stages` does.

    Frozen batch norms run in inference mode: their statistics do not move.

    Args:
        model: a model of `ResNet`; changed in place. Compile it afterwards.
        stages: -1: nothing, 0: the stem, N from 1 to 4: the stem and the first N stages.
        norm_eval: all batch norms run in inference mode; gamma and beta of those that are not
            frozen are trained.

    Raises:
        InputError: (a ValueError) `stages` out of its range.
    """
    last = len(_stage_numbers(model))
    if stages not in range(-1, last + 1):
        raise InputError(f"`stages` must be -1 to {last}. Received: stages={stages}")
    for layer in model.layers:
        stage = re.match(r"conv(\d)_", layer.name)
        frozen = stage is not None and int(stage[1]) <= stages + 1
        layer.trainable = not frozen
        if norm_eval and not frozen and isinstance(layer, keras.layers.BatchNormalization):
            # Keras runs a batch norm in inference mode where the layer is not trainable, and
            # trains the variables that are.
            layer.trainable = False
            layer.gamma.trainable = layer.beta.trainable = True


def adapt_last_norm(model: keras.Model) -> None:
    """Let the statistics of the last batch norm follow the images; gamma and beta stay frozen.

    What FixRes fine-tunes beside the head (Touvron et al. 2019, "Fixing the train-test resolution
    discrepancy", section 4; in its code, `imnet_finetune/train.py`, the parameters are frozen).

    Args:
        model: a model of `ResNet` whose stages are frozen; changed in place. Compile it afterwards.
    """
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    norms[-1].trainable = True
    norms[-1].gamma.trainable = norms[-1].beta.trainable = False


def _stage_numbers(model: keras.Model) -> list[int]:
    """The numbers of the stages in layer names: 2, 3, ..."""
    found = (re.match(r"conv(\d)_block1_out$", layer.name) for layer in model.layers)
    return [int(match[1]) for match in found if match]


def level_ends(model: keras.Model) -> dict[str, str]:
    """For each level, "C1", "C2", ..., the name of the layer that ends it."""
    names = [layer.name for layer in model.layers]
    ends = {}
    for level, pattern in (
        ("C1", r"conv1(_\d)?_relu"),
        *((f"C{k}", rf"conv{k}_block\d+_out") for k in _stage_numbers(model)),
    ):
        ends[level] = [name for name in names if re.fullmatch(pattern, name)][-1]
    return ends


def _pyramid_level(level: str) -> str:
    return level.replace("C", "P")
