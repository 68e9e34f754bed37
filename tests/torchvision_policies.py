"""What torchvision makes of an image, and its strengths: see test_policies.py.

    python tests/torchvision_policies.py > tests/golden/torchvision_policies.json

prints the strengths of each policy and AutoAugment's pairs, which torchvision 0.14.1 wrote; with
the file of an image, every operation of TrivialAugmentWide at each strength is written beside it.
"""

import json
import sys

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment


def plain(space):
    """Strengths as lists, and whether they have a sign."""
    return {name: (values.double().tolist(), signed) for name, (values, signed) in space.items()}


wide = plain(autoaugment.TrivialAugmentWide()._augmentation_space(31))


def changed(path):
    """Apply every operation, in either sign."""
    (pixels,) = np.load(path).values()
    image = Image.fromarray(pixels.squeeze())
    for name, (values, signed) in wide.items():
        for place, value in enumerate(np.atleast_1d(values)):
            for sign in (1, -1) if signed else (1,):
                for mode in ("nearest", "bilinear"):
                    result = autoaugment._apply_op(
                        image, name, sign * float(value), InterpolationMode(mode), None
                    )
                    yield f"{name} {place} {sign} {mode}", np.asarray(result)


if sys.argv[1:]:
    np.savez(sys.argv[1] + ".changed.npz", **dict(changed(sys.argv[1])))
else:
    learned = autoaugment.AutoAugment()
    space = plain(learned._augmentation_space(10, (224, 224)))
    print(json.dumps({"wide": wide, "learned": space, "pairs": learned.policies}, indent=1))
