"""The features of a frozen network: computed once, kept with the run, and what trains on them."""

import dataclasses
import io
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras import data
from resnet_keras.clones import cloned, fold
from resnet_keras.console import say
from resnet_keras.devices import forward_batch
from resnet_keras.files import whole
from resnet_keras.model_files.keras import plain
from resnet_keras.models import normalisation_of
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe import Recipe
from resnet_keras.recipe.columns import RANDOM
from resnet_keras.specs import SPECS
from resnet_keras.training.job import Job

# Images in a file: what a run that is killed loses at most. Whole batches of `forward_batch`.
PIECE = 256

# Seconds between two lines of progress.
_INTERVAL = 20.0


@dataclasses.dataclass(frozen=True)
class _View:
    """One view of a split, whose features lie in files of `PIECE` images each.

    Attributes:
        split: the images.
        number: of the view, from 0.
        preprocessing: as evaluation shows them; None: augmented.
        normalisation: the network's mean and standard deviation of pixels.
        folder: of the files.
        name: of the files, to which the number of a piece is added.
    """

    split: data.Split
    number: int
    preprocessing: Preprocessing | None
    normalisation: tuple[list[float], list[float]]
    folder: Path
    name: str

    def paths(self) -> list[Path]:
        """The files, in order."""
        pieces = range(math.ceil(self.split.examples / PIECE))
        return [self.folder / f"{self.name}-{piece:06d}.npy" for piece in pieces]


class OnFeatures(keras.Model):
    """The last layer of a network, trained on what the layers before it have computed.

    Its variables are those of the whole network, with the same names, and so are its backups.

    Args:
        network: ends with the layer `predictions`.
    """

    def __init__(self, network: keras.Model):
        # As the head: under a half-precision policy, features would be rounded.
        super().__init__(name=network.name, dtype=network.get_layer("predictions").dtype_policy)
        self.network = network
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the logits `(batch, classes)` of features `(batch, features)`."""
        return self.network.get_layer("predictions")(inputs)


def used(recipe: Recipe, replicas: int) -> bool:
    """Tell whether a training computes features once; if it seems asked for, say why not.

    Args:
        recipe: what to train.
        replicas: number of replicas.
    """
    if recipe.freeze != len(SPECS[recipe.model].depths) or not recipe.views:
        return False
    obstacles = {
        "--mixup and --cutmix need images": recipe.mixup or recipe.cutmix,
        "--repeats needs images": recipe.repeats > 1,
        "--drop-path changes them": recipe.drop_path,
        "--quantize changes them": recipe.quantize,
        "--adapt-last-norm changes them": recipe.adapt_last_norm,
        "--teacher needs images": recipe.teacher,
        f"there are {replicas} replicas": replicas > 1,
    }
    if reasons := [reason for reason, there in obstacles.items() if there]:
        say(f"features are computed anew in each epoch: {', '.join(reasons)}")
        return False
    left_out = [f"--{name.replace('_', '-')}" for name in RANDOM if getattr(recipe, name)]
    if recipe.views == 1 and left_out:
        say(
            f"features are computed once, without {', '.join(left_out)}: --views N computes those "
            "of N augmentations of each image, --views 0 augments in every epoch"
        )
    return True


def on_features(job: Job, network: keras.Model) -> Job:
    """Compute the features of the training and validation images that are not on the disk yet.

    Args:
        job: a training.
        network: with its weights; all but its layer `predictions` are frozen.

    Returns:
        The training, on features.

    Raises:
        InputError: an image or the disk is at fault.
    """
    start, recipe, folder = time.perf_counter(), job.recipe, job.folder / "features"
    crc, pixels = _checksum(job, network), normalisation_of(network)
    # Without augmentation, what the plain run sees; with it, what evaluation sees.
    augmented = recipe.views > 1 or not any(getattr(recipe, name) for name in RANDOM)
    views = [
        _view(
            job.train, "train", n, None if augmented else recipe.preprocessing, pixels, folder, crc
        )
        for n in range(recipe.views)
    ]
    validated = _view(job.validation, "validation", 0, recipe.preprocessing, pixels, folder, crc)
    _compute([*views, validated], recipe, _forward(network))
    train = [_opened(view) for view in views]
    validation, classes = _opened(validated)
    return dataclasses.replace(
        job,
        train=_split(job.train, [pieces for pieces, _ in train], train[0][1]),
        validation=_split(job.validation, [validation], classes),
        spent=time.perf_counter() - start,
    )


def remove(folder: Path) -> None:
    """Remove the features of a run, which is done with them.

    Args:
        folder: of the run.
    """
    if (features := folder / "features").exists():
        shutil.rmtree(features)


def batch_of(recipe: Recipe) -> int:
    """Return the number of images in a forward pass.

    Args:
        recipe: of the training.
    """
    return forward_batch((recipe.train_size, recipe.train_size))


def _checksum(job: Job, network: keras.Model) -> int:
    """A number that changes with the weights before the last layer and how they are used."""
    backend, last = keras.backend.backend(), network.get_layer("predictions")
    columns = dataclasses.replace(job.recipe, run_dir=None).preprocessing
    value = zlib.crc32(f"{backend} {job.policy} {columns} {batch_of(job.recipe)} {PIECE}".encode())
    for layer in network.layers:
        for array in layer.get_weights() if layer is not last else ():
            value = zlib.crc32(f"{layer.name} {array.shape}".encode(), value)
            value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return zlib.crc32(repr(_augmentation(job.recipe)).encode(), value)


def _augmentation(recipe: Recipe) -> list:
    """The columns that a view depends on."""
    names = (
        *RANDOM,
        "train_size",
        "train_resize",
        "rand_magnitude",
        "rand_std",
        "erasing_fill",
        "seed",
    )
    return [(name, getattr(recipe, name)) for name in names]


def _view(
    split: data.Split,
    name: str,
    number: int,
    preprocessing: Preprocessing | None,
    normalisation: tuple[list[float], list[float]],
    folder: Path,
    crc: int,
) -> _View:
    """A view whose files have a name that no other view has, now or earlier."""
    text = f"{split.identity} {preprocessing} {number}"
    key = zlib.crc32(text.encode(errors="surrogateescape"), crc)
    file = f"{name}-{number}-{key:08x}"
    return _View(split, number, preprocessing, normalisation, folder, file)


def _forward(network: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from pixels `(batch, ...)` to features, float32 `(batch, features)`.

    It computes in the precision of the network, but without batch norm.
    """
    head = network.get_layer("predictions")
    model = fold(plain(keras.Model(network.inputs[0], head.input)), rescaling="rows")
    policies = {layer.name: layer.dtype_policy for layer in network.layers}
    if any(policy.compute_dtype != "float32" for policy in policies.values()):

        def in_precision(layer):
            return type(layer).from_config({**layer.get_config(), "dtype": policies[layer.name]})

        weights = model.get_weights()
        model = cloned(model, in_precision)
        model.set_weights(weights)
    if keras.backend.backend() != "tensorflow":
        return lambda images: np.asarray(model.predict_on_batch(images), np.float32)
    import tensorflow as tf

    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    call = tf.function(lambda images: model(images, training=False), [spec])
    return lambda images: tf.cast(call(tf.cast(images, tf.float32)), tf.float32).numpy()


def _compute(views: list[_View], recipe: Recipe, forward: Callable) -> None:
    """Write the files that are missing, and remove those of other weights or images."""
    wanted = {path for view in views for path in view.paths()}
    for path in views[0].folder.glob("*.npy"):
        if path not in wanted:
            path.unlink()
    missing = [(view, _whole_pieces(view)) for view in views]
    total = sum(max(view.split.examples - done * PIECE, 0) for view, done in missing)
    if not total:
        return
    done, start = 0, time.perf_counter()
    shown = start
    say(f"computing the features of {total:,} images, {recipe.views} of each training image")
    for view, first in missing:
        pieces = _pieces(view, recipe, first, forward)
        for path, piece in zip(view.paths()[first:], pieces, strict=True):
            with whole(path) as part:
                # Into a file NumPy writes past Python, and does not say that the disk is full.
                contents = io.BytesIO()
                np.save(contents, piece)
                part.write_bytes(contents.getbuffer())
            done, now = done + len(piece), time.perf_counter()
            if recipe.verbose and (now - shown > _INTERVAL or done == total):
                shown = now
                speed = done / (now - start)
                left = f", {(total - done) / speed:.0f} s left" if done < total else ""
                say(f"features of {done:,} of {total:,} images, {speed:.1f} images/s{left}")


def _pieces(view: _View, recipe: Recipe, first: int, forward: Callable) -> Iterator[np.ndarray]:
    """The contents of the files of a view, from a number on."""
    if first * PIECE >= view.split.examples:
        return
    batch = batch_of(recipe)
    batches = data.view_batches(
        view.split,
        recipe,
        view.preprocessing,
        view=view.number,
        seed=recipe.seed,
        batch_size=batch,
        start=first * PIECE,
        normalisation=view.normalisation,
    )
    rows: list[np.ndarray] = []
    with data.reading(view.split):
        for images, labels in batches.as_numpy_iterator():
            # Always whole batches: an accelerator's compiler compiles for each size.
            fill = [(0, batch - len(images)), *[(0, 0)] * (images.ndim - 1)]
            features = forward(np.pad(images, fill))[: len(images)]
            kind = [("features", "<f4", features.shape[1:]), ("label", "<i8", labels.shape[1:])]
            row = np.empty(len(images), kind)
            row["features"], row["label"] = features, labels
            rows.append(row)
            if len(rows) == PIECE // batch:
                yield np.concatenate(rows)
                rows = []
    if rows:
        yield np.concatenate(rows)


def _whole_pieces(view: _View) -> int:
    """The number of files of a view that are there, from the first one on."""
    paths = view.paths()
    return next((n for n, path in enumerate(paths) if not path.exists()), len(paths))


def _opened(view: _View) -> tuple[list[np.ndarray], np.ndarray]:
    """The features of a view in pieces, which stay on the disk, and the labels."""
    files = [np.load(path, mmap_mode="r") for path in view.paths()]
    labels = np.concatenate([np.array(file["label"]) for file in files])
    # Plain arrays of the same memory: each access to a `memmap` makes another one.
    features = [np.asarray(file["features"]) for file in files]
    return features, labels.astype(np.uint8) if view.split.multi_label else labels


def _split(images: data.Split, views: list, classes: np.ndarray) -> data.FeatureSplit:
    """The split of features that takes the place of one of images."""
    return data.FeatureSplit(
        labels=images.labels,
        channels=images.channels,
        skipped=images.skipped,
        source=images.source,
        name=images.name,
        images=images,
        views=views,
        classes=classes,
    )
