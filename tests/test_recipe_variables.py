"""The names of a network's variables, derived without Keras, are those of the network."""

import dataclasses

import keras
import pytest

from resnet_keras import ResNet
from resnet_keras.quantize import quantization_aware
from resnet_keras.recipe.variables import trainable_variables
from resnet_keras.specs import SPECS, Spec

NAMES = ("resnet18", "resnet50", "resnetv1d50", "resnetv1c50", "resnet18_cifar", "resnet50_cifar")
ODD = Spec("basic", (1, 2), (16, 16))  # its second stage changes the stride, not the channels


@pytest.mark.parametrize("spec", [*NAMES, "resnet20_cifar", "resnet110_cifar", ODD], ids=str)
def test_names_are_those_of_the_network(spec):
    with keras.StatelessScope(initialize_variables=False):  # only the names are asked for
        model = ResNet(spec)
    expected = sorted(variable.path for variable in model.trainable_variables)
    spec = SPECS.get(spec, spec) if isinstance(spec, str) else spec
    assert sorted(trainable_variables(spec)) == expected


def test_names_with_folded_batch_norm_are_those_of_the_network_for_int8():
    spec = dataclasses.replace(SPECS["resnetv1d50"], depths=(2, 1, 1, 1), widths=(8, 8, 16, 16))
    network = ResNet(spec, input_shape=(32, 32, 3), classes=10, classifier_activation=None)
    model = quantization_aware(network)
    expected = sorted(variable.path for variable in model.trainable_variables)
    assert sorted(trainable_variables(spec, folded=True)) == expected
