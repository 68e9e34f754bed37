"""The backbone of a task, and the weights that it begins with: those of a classifier of crops."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from resnet_keras.console import say
from resnet_keras.files import whole
from resnet_keras.layers import Conv2D
from resnet_keras.models import FeaturePyramid, features, freeze
from resnet_keras.recipe import Recipe
from resnet_keras.training import run_folder, train
from resnet_keras.vision.recipe import SceneRecipe
from resnet_keras.vision.scenes import digit_scene
from resnet_keras.weights import load_weights
from resnet_keras.zoo import ResNet

# Edge of a crop in pixels, and the share of them that is tested on.
EDGE, TESTED = 48, 0.1


def backbone(
    recipe: SceneRecipe,
    levels: Sequence[str] | Mapping[str, str],
    *,
    training: bool,
    weights: str | None = None,
    output_stride: int = 32,
) -> FeaturePyramid:
    """Build the backbone of a recipe, for scenes of its size.

    Args:
        recipe: with the network, and what of it is frozen.
        levels: as of `features`.
        training: with convolutions that train fast; else of stock layers.
        weights: of a network with an output stride of 32, from any source that `load_weights`
            takes. None: random ones.
        output_stride: as of `ResNet`.

    Returns:
        Pixels 0-255, `(batch, size, size, 3)`, to the maps of the levels. It normalises the pixels
        itself.
    """
    shape = (recipe.size, recipe.size, 3)
    conv = Conv2D if training else keras.layers.Conv2D
    model = ResNet(
        recipe.model,
        include_top=False,
        input_shape=shape,
        output_stride=output_stride,
        conv=conv,
    )
    if weights is not None:
        # The classifier is not dilated, and `load_weights` refuses what computes something else.
        classifier = ResNet(recipe.model, include_top=False, input_shape=shape)
        load_weights(classifier, weights, skip_head=True)
        model.set_weights(classifier.get_weights())
    freeze(model, recipe.freeze, norm_eval=recipe.norm_eval)
    return features(model, levels, any_size=False)


def classifier_of_crops(recipe: SceneRecipe, folder: Path) -> str | None:
    """Train the network to classify crops of training scenes, each of one digit.

    It is a training of its own, in the folder `crops/run` of the run, and is resumed as any other.
    The crops are in `crops/images`; a tenth of them is tested on. There are no test scenes among
    them.

    Args:
        recipe: with the network, the number of crops and of epochs.
        folder: of the run.

    Returns:
        The path of the model file; None where the recipe asks for no crops.
    """
    if not recipe.crops:
        return None
    images = folder / "crops" / "images"
    if not images.exists():
        say(f"writing {recipe.crops:,} crops of training scenes to {images}/")
        with whole(images) as part:
            write_crops(recipe, part)
    run = train(
        Recipe(
            model=recipe.model,
            dataset=f"folder:{images}",
            train_size=EDGE,
            padding=4,
            eval_size=EDGE,
            optimizer="sgd",
            momentum=0.9,
            nesterov=True,
            batch_size=64,
            learning_rate=0.05,
            weight_decay=5e-4,
            epochs=recipe.crop_epochs,
            schedule="cosine",
            warmup_epochs=1,
            precision=recipe.precision,
            seed=recipe.seed,
            deterministic=recipe.deterministic,
            run_dir=folder / "crops" / "run",
            backup_every=recipe.backup_every,
            logger="none",
            verbose=recipe.verbose,
        )
    )
    return str(run / "model.keras")


def crop_seconds(folder: Path) -> float:
    """Return how long the classifier of crops was trained; 0 where a run has none.

    Args:
        folder: of the run.

    Raises:
        InputError: its results are damaged.
    """
    run = folder / "crops" / "run"
    results = run_folder.results_in(run)
    if results is None:
        return 0.0
    run_folder.require_numbers(results, ["train_seconds"], run)
    return results["train_seconds"]


def crop_margins(recipe: SceneRecipe) -> np.ndarray:
    """Draw how much wider than its digit each crop is, float64 `(crops,)`."""
    rng = np.random.default_rng(recipe.seed)  # a scene's seed is three numbers: other draws
    low, high = np.log(recipe.crop_margins)
    return np.exp(rng.uniform(low, high, recipe.crops))


def write_crops(recipe: SceneRecipe, folder: Path) -> None:
    """Write the crops of the first training scenes as PNG files, by split and digit."""
    written = number = 0
    tested = round(TESTED * recipe.crops)
    margins = crop_margins(recipe)
    while written < recipe.crops:
        scene = digit_scene(
            "train", number,
            seed=recipe.seed, size=recipe.size, deformation=recipe.deformation,
        )  # fmt: skip
        number += 1
        for box, digit in zip(scene.boxes, scene.classes, strict=True):
            if written == recipe.crops:
                break
            split = "test" if written < tested else "train"
            path = folder / split / str(digit) / f"{written:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop(scene.image, box, EDGE, margins[written])).save(path)
            written += 1


def crop(image: np.ndarray, box: np.ndarray, edge: int, margin: float) -> np.ndarray:
    """Cut a square around a box out of an image, and resize it.

    Args:
        image: uint8 `(height, width, 3)`.
        box: its corners x1, y1, x2, y2 in pixels.
        edge: of the result, in pixels.
        margin: how many times the longer edge of the box the square is wide.

    Returns:
        uint8 `(edge, edge, 3)`; beyond the edges of the image it is black.
    """
    x, y = (box[:2] + box[2:]) / 2
    half = margin * (box[2:] - box[:2]).max() / 2
    corners = (float(x - half), float(y - half), float(x + half), float(y + half))
    return np.asarray(
        Image.fromarray(image).transform(
            (edge, edge), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR
        )
    )
