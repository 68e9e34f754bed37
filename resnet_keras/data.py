"""TFDS data sets -> batches of `(uint8 pictures, integer labels)`, a pure function of the step."""

import dataclasses
import difflib
import math
import os
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from resnet_keras import augment
from resnet_keras.terminal import InputError

# Pictures of one known size that fit in here are kept decoded, with random access.
IN_MEMORY_BYTES = 2**30

# Pictures are shuffled on disk when TFDS writes them; files in random order, so many of them at a
# time and a buffer of so many compressed pictures make neighbours strangers.
INTERLEAVED_FILES, SHUFFLE_BUFFER = 16, 4096


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's handwritten digits: 1797 grey pictures of 8x8, no download.

    The last 360 are the test pictures: in the order of the UCI source they are by other writers
    than the first 1437.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, 1437),
            "test": self._generate_examples(1437, 1797),
        }

    def _generate_examples(self, start: int, stop: int):
        from sklearn.datasets import load_digits

        digits = load_digits()
        for i in range(start, stop):
            grey = np.round(digits.images[i] * (255 / 16)).astype(np.uint8)  # 17 levels
            yield i, {"image": grey[..., None], "label": int(digits.target[i])}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """One split of a data set.

    Attributes:
        examples: number of pictures.
        labels: names of the classes, in the order of their numbers.
        channels: 1 or 3.
        arrays: `(uint8 (n, h, w, c), int64 (n,))` where pictures are kept in memory; else None.
        records: else, `(files, skip, take)` of the split and the parser of one record to
            `(encoded picture, label)`.
    """

    examples: int
    labels: tuple[str, ...]
    channels: int
    arrays: tuple[np.ndarray, np.ndarray] | None = None
    records: tuple[Sequence, Callable] | None = None


def open_split(dataset: str, split: str, *, data_dir: str | Path | None = None) -> Pictures:
    """Open one split; small data sets are prepared first, if their files can be had.

    Args:
        dataset: `digits` or the name of a TFDS image-classification data set.
        split: "train"; "test", which is the validation split where the data set has no labelled
            test split; or a split as TFDS writes it (`validation[:10%]`).
        data_dir: where prepared data sets lie; by default TFDS' `~/tensorflow_datasets`.

    Returns:
        The pictures.

    Raises:
        InputError: no such data set or split, no pictures with labels in it, or files that are
            missing and cannot be downloaded.
    """
    builder = _builder(dataset, data_dir)
    image, label = _image_and_label(builder)
    if not builder.is_prepared():
        _prepare(builder)
    if split == "test" and (split not in builder.info.splits or dataset == "imagenet2012"):
        split = "validation"
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError):
        raise InputError(
            f"{dataset} has the splits {', '.join(builder.info.splits)}. Received: split={split!r}"
        ) from None
    shape = builder.info.features[image].shape
    common = {
        "examples": info.num_examples,
        "labels": tuple(builder.info.features[label].names),
        "channels": shape[-1] or 3,
    }
    if not info.num_examples:
        raise InputError(f"split {split!r} of {dataset} in {builder.data_dir} is empty.")
    if None not in shape and info.num_examples * math.prod(shape) <= IN_MEMORY_BYTES:
        whole = builder.as_dataset(split=split, batch_size=2048)
        parts = [(batch[image], batch[label]) for batch in tfds.as_numpy(whole)]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Pictures(arrays=(images, labels.astype(np.int64)), **common)

    def parse(record):
        skip = {image: tfds.decode.SkipDecoding()}
        example = builder.info.features.deserialize_example(record, decoders=skip)
        return example[image], example[label]

    pieces = [(p.filename, p.skip, p.take) for p in info.file_instructions]
    return Pictures(records=(pieces, parse), **common)


def training_batches(
    pictures: Pictures,
    *,
    size: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    min_area: float | None = None,
    padding: int = 0,
    flip: bool = False,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> tf.data.Dataset:
    """Endless shuffled, augmented training batches: a pure function of the seed and the step.

    An epoch shows every picture at least once: its last batch is filled from the next epoch's
    order, so that all batches are whole.

    Args:
        pictures: the training split.
        size: height and width.
        batch_size: pictures in a batch, over all replicas.
        seed: of order and augmentation.
        start: number of the first step.
        min_area: random resized crop, down to this share of the area; None: no such crop.
        padding: random crop after so many zeros around; 0: no such crop.
        flip: random horizontal flip.
        rotate: random rotation by up to so many degrees.
        scale: random scaling of each axis by a factor within so much of 1.
        shear: random shear by up to this share of the height.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.

    Returns:
        A data set of `(uint8 (batch, size, size, channels), int64 (batch,))`.
    """

    def transform(picture, label, epoch, position):
        key = augment.example_seed(seed, epoch, position)
        resizing = {"interpolation": interpolation, "antialias": antialias}
        if min_area is not None:
            shape = _shape(picture)
            window = augment.random_crop_window(shape[0], shape[1], key, min_area=min_area)
            image = _decode(picture, pictures.channels, window)
            image = augment.resize(image, size, size, **resizing)
        else:
            image = _decode(picture, pictures.channels)
            if pictures.arrays is None or pictures.arrays[0].shape[1:3] != (size, size):
                image = augment.resize(image, size, size, **resizing)
        if rotate or scale or shear:
            image = augment.random_affine(image, key, degrees=rotate, scale=scale, shear=shear)
        if padding:
            image = augment.pad_and_crop(image, key, padding=padding)
        if flip:
            image = augment.flip(image, key)
        return tf.ensure_shape(image, (size, size, pictures.channels)), label

    steps = math.ceil(pictures.examples / batch_size)
    stream = _from_arrays if pictures.arrays else _from_records
    stream = stream(pictures, seed, steps * batch_size, start * batch_size)
    stream = stream.map(transform, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _tuned(stream.batch(batch_size, drop_remainder=True))


def evaluation_batches(
    pictures: Pictures,
    *,
    size: int,
    batch_size: int,
    resize: int | None = None,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> tf.data.Dataset:
    """Every picture once, in order: the short edge becomes `resize`, then a centre crop.

    Args:
        pictures: the split.
        size: height and width of the crop.
        batch_size: pictures in a batch; the last batch is what is left.
        resize: None: pictures as they are, where they have the right size.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.

    Returns:
        A data set of `(uint8 (batch, size, size, channels), int64 (batch,))`.
    """

    def transform(picture, label):
        image = evaluation_picture(
            _decode(picture, pictures.channels),
            size=size,
            resize=resize,
            interpolation=interpolation,
            antialias=antialias,
        )
        return tf.ensure_shape(image, (size, size, pictures.channels)), label

    if pictures.arrays:
        images, labels = (tf.constant(array) for array in pictures.arrays)
        stream = tf.data.Dataset.range(pictures.examples)
        stream = stream.map(lambda i: (tf.gather(images, i), tf.gather(labels, i)))
    else:
        pieces, parse = pictures.records
        stream = _read_pieces(_piece_tensors(pieces)).map(parse)
    stream = stream.map(transform, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _tuned(stream.batch(batch_size))


def evaluation_picture(
    image,
    *,
    size: int,
    resize: int | None = None,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> tf.Tensor:
    """One picture as evaluation sees it.

    Args:
        image: uint8 `(height, width, channels)`.
        size: height and width of the crop.
        resize: the short edge becomes this before; None: `size`, unless the picture has it.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.

    Returns:
        uint8 `(size, size, channels)`.
    """
    if resize is None and image.shape[:2] == (size, size):
        return tf.convert_to_tensor(image)
    return augment.resize_and_center_crop(
        image, resize=resize or size, crop=size, interpolation=interpolation, antialias=antialias
    )


def read_picture(path: str | Path, channels: int = 3) -> tf.Tensor:
    """Decode a JPEG, PNG, GIF (first frame) or BMP file.

    Args:
        path: the file.
        channels: 1 or 3.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        InputError: the file is not there or is not a picture.
    """
    try:
        return _decode(tf.io.read_file(str(path)), channels)
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
        raise InputError(f"no such picture. Received: {path}") from None
    except tf.errors.InvalidArgumentError:
        raise InputError(f"not a JPEG, PNG, GIF or BMP picture. Received: {path}") from None


def _from_arrays(pictures: Pictures, seed: int, per_epoch: int, start: int) -> tf.data.Dataset:
    """Endless `(picture, label, epoch, position in it)` by random access."""
    images, labels = (tf.constant(array) for array in pictures.arrays)

    def read(number):
        epoch, position = number // per_epoch, number % per_epoch
        # The n pictures behind the end of an epoch's order are the first of the next one's.
        order = epoch + position // pictures.examples
        index = tf.random.experimental.index_shuffle(
            position % pictures.examples,
            seed=tf.stack([tf.cast(seed, tf.int64), order]),
            max_index=pictures.examples - 1,
        )
        return tf.gather(images, index), tf.gather(labels, index), epoch, position

    return tf.data.Dataset.range(start, np.iinfo(np.int64).max).map(read)


def _from_records(pictures: Pictures, seed: int, per_epoch: int, start: int) -> tf.data.Dataset:
    """Endless `(encoded picture, label, epoch, position in it)`, each epoch in a new order."""
    pieces, parse = pictures.records
    tensors = _piece_tensors(pieces)
    first = start // per_epoch

    def order(epoch):
        """The records of one epoch's order."""
        numbers = tf.range(len(pieces), dtype=tf.int64)
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        shuffled = tf.random.experimental.index_shuffle(numbers, key, len(pieces) - 1)
        records = _read_pieces([tf.gather(t, shuffled) for t in tensors])
        number = augment.example_seed(seed, epoch, -1)[0]
        return records.shuffle(SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)

    def epoch_records(epoch):
        records = order(epoch)
        for turn in range(1, math.ceil(per_epoch / pictures.examples)):
            records = records.concatenate(order(epoch + turn))
        records = records.take(per_epoch).enumerate()
        skip = tf.where(epoch == first, tf.constant(start % per_epoch, tf.int64), 0)
        return records.skip(skip).map(lambda position, record: (*parse(record), epoch, position))

    return tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch_records)


def _piece_tensors(pieces: Sequence) -> list[tf.Tensor]:
    """Files, records to skip, records to take (-1: all)."""
    files, skip, take = zip(*pieces, strict=True)
    return [tf.constant(files), tf.constant(skip, tf.int64), tf.constant(take, tf.int64)]


def _read_pieces(tensors: list[tf.Tensor]) -> tf.data.Dataset:
    """The records of pieces of files, some files at a time, in an order that does not vary."""

    def read(file, skip, take):
        return tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)

    return tf.data.Dataset.from_tensor_slices(tuple(tensors)).interleave(
        read,
        cycle_length=INTERLEAVED_FILES,
        block_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _tuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetching, and options that keep the order and leave sharding to the strategy."""
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(2).with_options(options)


def _shape(picture) -> tf.Tensor:
    """Height, width, channels of a decoded or encoded picture."""
    if picture.dtype != tf.string:
        return tf.shape(picture)
    # TFDS keeps some PNG in data sets of JPEG (ImageNet has one); decoding them twice is rare.
    return tf.cond(
        tf.io.is_jpeg(picture),
        lambda: tf.io.extract_jpeg_shape(picture),
        lambda: tf.shape(tf.io.decode_image(picture, expand_animations=False)),
    )


def _decode(picture, channels: int, window: tuple | None = None) -> tf.Tensor:
    """uint8 pixels, of the window `(top, left, height, width)` only if there is one."""

    def crop(image):
        if window is None:
            return image
        top, left, height, width = window
        return image[top : top + height, left : left + width]

    if picture.dtype != tf.string:
        return crop(picture)
    # "INTEGER_ACCURATE" is libjpeg's default, which Pillow and OpenCV use.
    jpeg = {"channels": channels, "dct_method": "INTEGER_ACCURATE"}

    def decode_jpeg():
        if window is None:
            return tf.io.decode_jpeg(picture, **jpeg)
        return tf.io.decode_and_crop_jpeg(picture, tf.stack(window), **jpeg)

    def decode_other():
        return crop(tf.io.decode_image(picture, channels, expand_animations=False))

    image = tf.cond(tf.io.is_jpeg(picture), decode_jpeg, decode_other)
    return tf.ensure_shape(image, (None, None, channels))


def _builder(dataset: str, data_dir) -> tfds.core.DatasetBuilder:
    """TFDS' builder of a data set."""
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    if dataset == "digits":
        return Digits(data_dir=data_dir)
    # Without the community's, for which TFDS asks the network.
    known = tfds.list_builders(with_community_datasets=False)
    prepared = Path(data_dir or tfds.core.constants.DATA_DIR) / dataset
    if dataset.split("/")[0] in known or prepared.is_dir():
        try:
            return tfds.builder(dataset, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError):
            pass  # no such configuration, or a folder that holds something else
    near = difflib.get_close_matches(dataset, ["digits", *known])
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise InputError(
        f"no such data set: give `digits` or a name of TFDS{hint}. Received: dataset={dataset!r}"
    )


def _image_and_label(builder) -> tuple[str, str]:
    """The names of the picture's and the label's feature."""
    features = builder.info.features
    of = {
        kind: [name for name, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    }
    if not all(of.values()):
        raise InputError(
            f"{builder.name} has no labelled pictures. Received: dataset={builder.name!r}"
        )
    label = of[tfds.features.ClassLabel]
    return of[tfds.features.Image][0], "label" if "label" in label else label[0]


def _prepare(builder) -> None:
    """Build a data set, from local files where they are, else from the network."""
    folder = Path(builder._data_dir_root) / "downloads" / "manual"
    if builder.name == "fashion_mnist":
        _restore_debian_fashion_mnist(folder)
    files = {
        info.filename or Path(url).name: (url, info)
        for url, info in (builder.url_infos or {}).items()
    }
    missing = {name: pair for name, pair in files.items() if not (folder / name).exists()}
    if (
        builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        or missing
        and not _reachable(next(iter(missing.values()))[0])
    ):
        wanted = ", ".join(
            f"{name} ({int(info.size):,} bytes)" for name, (_, info) in missing.items()
        )
        raise InputError(
            f"{builder.name} is not prepared in {builder._data_dir_root}, and its files are not "
            f"here and cannot be downloaded. Put into {folder}: {wanted or 'what its page tells'}."
        )
    config = tfds.download.DownloadConfig(manual_dir=folder if folder.exists() else None)
    try:
        builder.download_and_prepare(download_config=config)
    except download_manager.NonMatchingChecksumError as error:
        raise InputError(
            f"a file of {builder.name} is not the published one; take it away and start again: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _reachable(url: str, seconds: float = 5.0) -> bool:
    """Whether a server answers; without a network TFDS itself would try for minutes."""
    answers = []

    def ask():
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                answers.append(True)
        except (urllib.error.URLError, OSError):
            answers.append(False)

    # In a thread, because looking up a name has no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


# Times in the gzip headers of the files that Zalando published; Debian's package recompressed
# none of them, but replaced the header.
_ZALANDO_TIMES = {"train": 1504176606, "t10k": 1504176627}


def _restore_debian_fashion_mnist(folder: Path) -> None:
    """Copy the files of Debian's package dataset-fashion-mnist, with their original headers.

    The body of each file is the original's; with its header restored it has the checksum that
    TFDS demands.
    """
    for source in Path("/usr/share/datasets/fashion-mnist").glob("*-ubyte.gz"):
        target = folder / source.name
        if target.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        name = source.stem.encode()
        time = struct.pack("<I", _ZALANDO_TIMES[source.name.split("-")[0]])
        header = b"\x1f\x8b\x08\x08" + time + b"\x00\x03" + name + b"\x00"
        part = target.with_suffix(".part")
        part.write_bytes(header + source.read_bytes()[10:])
        os.replace(part, target)
