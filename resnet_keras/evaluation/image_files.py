"""The most likely classes of image files."""

import functools
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from resnet_keras import data
from resnet_keras.console import say
from resnet_keras.data.folders import is_litter
from resnet_keras.data.formats import UnreadableError
from resnet_keras.data.images import tidy_file
from resnet_keras.devices import forward_batch
from resnet_keras.errors import InputError
from resnet_keras.evaluation import measures
from resnet_keras.model_files import (
    Metadata,
    ModelFile,
    open_model_file,
    require_scores,
    warn_of_missing_metadata,
)
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights import model_file_of

T = TypeVar("T")


def predict(
    model_file: str | Path | ModelFile,
    paths: str | Path | Sequence[str | Path],
    *,
    top: int = 5,
    skip_bad: bool = False,
) -> list[dict[str, Any]]:
    """Predict the most likely classes of image files.

    Args:
        model_file: a model file, or one that is open.
        paths: files, of any format of `read_image`, and folders. In a folder and its subfolders
            every file must be an image, except hidden files and those that file managers leave
            behind; they are taken in the order of their names.
        top: how many classes to give for an image, above 0; not used by a model that gives an
            image any number of labels.
        skip_bad: leave out files that cannot be read, and count them on stderr.

    Returns:
        For each image `{"path": str, "predictions": [{"label": str, "score": float}, ...]}`, the
        most likely class first; of a model that gives an image any number of labels, all whose
        score is the `threshold` of its metadata or more, which may be none. A score is what the
        model file gives, usually a probability; a class that has no name is called by its number.

    Raises:
        InputError: the model file gives features; a file is missing or not an image, with
            `skip_bad` every one of them; a folder has no images, or `top` is out of its range.
    """
    if top < 1:
        raise InputError(f"`top` must be above 0. Received: top={top}")
    paths = [paths] if isinstance(paths, str | Path) else paths
    if not paths:
        raise InputError("`predict` needs at least one image. Received: none")
    files = [file for path in paths for file in _files(Path(path))]
    if not isinstance(model_file, ModelFile):
        model_file = open_model_file(model_file_of(model_file))
    require_scores(model_file, "`predict`")
    warn_of_missing_metadata(model_file)
    metadata, answers = model_file.metadata, []
    most = forward_batch(metadata.preprocessing.size)
    bad: Counter[str] = Counter()
    for batch in _batches(_readable(files, model_file, bad if skip_bad else None), most):
        scores_of = model_file.predict(np.stack([image for _, image in batch]))
        for (file, _), scores in zip(batch, scores_of, strict=True):
            answers.append({"path": str(file), "predictions": _best(scores, metadata, top)})
    if bad:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in bad.most_common())
        if not answers:
            raise InputError(f"none of the files can be read. Received: {counts}")
        say(f"{bad.total():,} of {len(files):,} files left out: {counts}")
    return answers


def _files(path: Path) -> list[Path]:
    """List a file, or the files of a folder."""
    if not path.is_dir():
        return [path]
    files = list(_inside(path, ()))
    if not files:
        raise InputError(f"this folder has no images. Received: {path}")
    return files


def _inside(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """List the files of a folder, depth first; a link to one of the folders above ends there."""
    real = folder.resolve()
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            continue
        if path.is_dir():
            yield from _inside(path, (*above, real))
        else:
            yield path


def _readable(
    files: Iterable[Path], model_file: ModelFile, bad: Counter[str] | None
) -> Iterator[tuple[Path, np.ndarray]]:
    """Read images as evaluation sees them: uint8 `(height, width, channels)`.

    Args:
        files: of the images.
        model_file: which takes them.
        bad: counts the files that are left out, by the reason; None: none is left out.

    Raises:
        InputError: a file cannot be read, and is not left out.
    """
    prepared = _preparation(model_file.metadata.preprocessing, model_file.channels)

    def read(file: Path) -> np.ndarray:
        return prepared(tidy_file(file)).numpy()

    for file, result in _ahead(read, files):
        try:
            image = result()
        except (FileNotFoundError, UnreadableError) as error:
            gone = isinstance(error, FileNotFoundError)
            if bad is not None:
                bad["no such file" if gone else str(error)] += 1
                continue
            if gone:
                raise InputError(f"no such image. Received: {file}") from None
            raise InputError(
                f"not a readable image: {error}. Fix or remove it, or leave out such files with "
                f"--skip-bad. Received: {file}"
            ) from None
        yield file, image


@functools.cache
def _preparation(preprocessing: Preprocessing, channels: int) -> Callable[[bytes], Any]:
    """Decode and resize the bytes of an image, as one graph, as the images of a split."""

    def prepared(encoded: tf.Tensor) -> tf.Tensor:
        return data.evaluation_image(data.decode(encoded, channels), preprocessing)

    return tf.function(prepared, input_signature=[tf.TensorSpec((), tf.string)])


def _ahead(
    work: Callable[[Path], np.ndarray], files: Iterable[Path]
) -> Iterator[tuple[Path, Callable[[], np.ndarray]]]:
    """Do some work for each file, on all cores and ahead of what is asked for.

    Args:
        work: takes a file.
        files: in their order.

    Yields:
        Each file, and a function that waits for its result, or raises what its work has raised.
    """
    workers = os.cpu_count() or 1
    files, begun = iter(files), deque[tuple[Path, Future[np.ndarray]]]()
    # Around the threads, which change the filters of warnings: they are the process's.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                # Few: one image of a camera may take 100 MiB while it is read.
                for file in islice(files, 2 * workers - len(begun)):
                    begun.append((file, pool.submit(work, file)))
                if not begun:
                    return
                file, result = begun.popleft()
                yield file, result.result
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(images: Iterable[T], most: int) -> Iterator[list[T]]:
    images = iter(images)
    while batch := list(islice(images, most)):
        yield batch


def _best(scores: np.ndarray, metadata: Metadata, top: int) -> list[dict[str, Any]]:
    """Name the classes with the highest scores; of equal ones the first leads, as in `argmax`."""
    best, labels = np.argsort(-scores, kind="stable"), metadata.labels
    if metadata.threshold is None:
        best = best[:top]
    else:
        best = best[measures.decided(scores, metadata.threshold)[best]]
    return [
        {"label": labels[i] if labels else str(i), "score": float(scores[i])} for i in best.tolist()
    ]
