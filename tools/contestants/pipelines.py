"""Training pipelines: from JPEG files to augmented batches."""

import os
import resource
import time
from pathlib import Path

IMAGES, HEIGHT, WIDTH = 256, 375, 500


def write_images(folder: Path) -> None:
    """Write crops of scikit-learn's two photos as JPEG, in the size most common in ImageNet."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for i in range(IMAGES):
        left, top = (i * 37) % 140, (i * 11) % 52
        window = photos[i % 2].crop((left, top, left + WIDTH, top + HEIGHT))
        (folder / "class").mkdir(exist_ok=True)
        window.save(folder / "class" / f"{i:04d}.jpg", quality=88)


def ours(folder: str, **options) -> dict:
    """Our training pipeline from a folder: random resized crop, flip, batches of uint8."""
    _one_core()
    return _pipeline_speed(_our_batches(folder, **options))


def ours_with_rand_augment(folder: str) -> dict:
    """The same with RandAugment, as in "ResNet strikes back"."""
    return ours(folder, rand_ops=2)


def ours_v2(folder: str) -> dict:
    """What torchvision's V2 recipes do to an image, but for erasing: see `torchvision_v2`."""
    return ours(folder, train_size=176, antialias=True, policy="trivial_augment_wide")


def memory(folder: str) -> dict:
    """How much memory 20 epochs add after the first five."""
    batches = _our_batches(folder)
    epoch = IMAGES // 64

    def epochs(number):
        for _ in range(number * epoch):
            next(batches)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20

    before = epochs(5)
    return {"MiB": epochs(20) - before}


def _our_batches(folder: str, **options):
    from resnet_keras.console import load_tensorflow

    load_tensorflow()
    from resnet_keras import data
    from resnet_keras.recipe.columns import Augmentation

    images = data.Source(f"folder:{folder}", "train").open()
    augmentation = Augmentation(min_area=0.08, flip=True, **options)
    batches = data.training_batches(images, augmentation, batch_size=64, seed=0)
    return iter(batches.as_numpy_iterator())


def bare_decode(folder: str) -> dict:
    """Decode a random window and do nothing else: no pipeline can be faster."""
    _one_core()
    from resnet_keras.console import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    from resnet_keras import augmentations

    files = sorted(str(path) for path in Path(folder).glob("class/*.jpg"))

    def decode(number, path):
        contents = tf.io.read_file(path)
        seed = augmentations.example_seed(0, 0, number)
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(contents))
        window = tf.stack(augmentations.random_crop_window(height, width, seed, min_area=0.08))
        image = tf.io.decode_and_crop_jpeg(contents, window, 3, dct_method="INTEGER_ACCURATE")
        return tf.reduce_max(tf.shape(image))

    stream = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    stream = stream.map(decode, tf.data.AUTOTUNE).batch(64).prefetch(2)
    return _pipeline_speed(iter(stream.as_numpy_iterator()))


def torchvision(folder: str) -> dict:
    """Torchvision's reference pipeline in the main process, where it is fastest on one core."""
    return _torchvision(folder, 224)


def torchvision_v2(folder: str) -> dict:
    """The same at 176 x 176 with TrivialAugmentWide, bilinear, as in the V2 recipes."""
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide

    return _torchvision(folder, 176, TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))


def _torchvision(folder: str, size: int, *policy) -> dict:
    """Images per second of crops, flips and a policy, on Pillow's images."""
    _one_core()
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    steps = [
        transforms.RandomResizedCrop(size),
        transforms.RandomHorizontalFlip(),
        *policy,
        transforms.PILToTensor(),
    ]
    images = datasets.ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(images, batch_size=64, shuffle=True, drop_last=True)

    def endless():
        while True:
            yield from loader

    return _pipeline_speed(endless())


def _one_core() -> None:
    """Keep to one core; called before a library counts them."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})


def _pipeline_speed(batches, warm_up: int = 8, measured: int = 50) -> dict:
    """Images per second, in batches of 64."""
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in range(measured):
        next(batches)
    return {"images_per_second": 64 * measured / (time.perf_counter() - start)}
