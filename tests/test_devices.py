"""How many images a forward pass takes at a time."""

import pytest

from resnet_keras.devices import _batch, forward_batch, kinds


@pytest.mark.parametrize(
    ("size", "images"),
    [
        ((224, 224), 8),
        ((225, 224), 4),
        ((112, 448), 8),
        ((64, 64), 64),
        ((56, 56), 128),
        ((8, 8), 128),
        ((1024, 1024), 1),
    ],
)
def test_a_batch_on_a_processor_has_as_many_pixels_as_its_caches_hold(size, images):
    assert _batch(size, {"CPU"}) == images
    assert _batch(size, {"CPU", "GPU"}) == _batch(size, {"TPU"}) == 128
    if kinds() == {"CPU"}:
        assert forward_batch(size) == images
