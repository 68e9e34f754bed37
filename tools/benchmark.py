"""Ours against what people would use instead, alternated in one run on one machine.

    python tools/benchmark.py pipeline [--rounds 5] [--peer-python /usr/bin/python3]

Every number is images a second, the median of several rounds; every ratio is taken within a round,
and the median of the ratios is shown. Each measurement is a process of its own, with a warm-up.
A peer that is missing is a row that says so.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES, HEIGHT, WIDTH = 256, 375, 500


def main() -> None:
    """Measure, print one table, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pipeline",))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default="/usr/bin/python3", help="has torchvision")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        # One core, before any library looks.
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
        print(json.dumps({"images_per_second": WORKERS[options.worker](options.folder)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        rounds = [one_round(options, folder) for _ in range(options.rounds)]
    report(rounds, options.out)


def one_round(options, folder: str) -> dict[str, float | None]:
    """Every worker once, one after the other."""
    results = {}
    for name in WORKERS:
        python = options.peer_python if name == "torchvision" else sys.executable
        command = [python, __file__, options.what, "--worker", name, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            print(f"{name}: not measured ({reason})", file=sys.stderr)
            results[name] = None
        else:
            results[name] = json.loads(done.stdout.splitlines()[-1])["images_per_second"]
            print(f"{name}: {results[name]:.0f} images/s", file=sys.stderr)
    return results


def report(rounds: list[dict], out: Path) -> None:
    """Medians, and ratios of ours to the others."""
    machine = {"python": platform.python_version(), "processor": _processor(), "cores_used": 1}
    table = {}
    for name in WORKERS:
        speeds = [r[name] for r in rounds if r[name]]
        ratios = [r["ours"] / r[name] for r in rounds if r["ours"] and r[name]]
        table[name] = {
            "images_per_second": speeds and statistics.median(speeds),
            "ours_over_it": ratios and statistics.median(ratios),
        }
    out.write_text(json.dumps({"machine": machine, "table": table, "rounds": rounds}, indent=1))
    print(f"{'':24}{'images/s':>12}{'ours over it':>16}")
    for name, row in table.items():
        if row["images_per_second"]:
            print(f"{name:24}{row['images_per_second']:12.0f}{row['ours_over_it'] or 0:16.2f}")
        else:
            print(f"{name:24}{'not measured':>12}")


def write_pictures(folder: Path) -> None:
    """JPEG of photos that scikit-learn ships, of the size that ImageNet's mostly have."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for i in range(PICTURES):
        left, top = (i * 37) % 140, (i * 11) % 52
        window = photos[i % 2].crop((left, top, left + WIDTH, top + HEIGHT))
        (folder / "class").mkdir(exist_ok=True)
        window.save(folder / "class" / f"{i:04d}.jpg", quality=88)


def ours(folder: str, **options) -> float:
    """Our training pipeline from a folder: random resized crop, flip, batches of uint8."""
    from resnet_keras.terminal import load_tensorflow

    load_tensorflow()
    from resnet_keras import data

    return _speed(iter(_batches(data, folder, **options).as_numpy_iterator()))


def _batches(data, folder: str, **options):
    pictures = data.open_split(f"folder:{folder}", "train")
    return data.training_batches(
        pictures, size=224, batch_size=64, seed=0, min_area=0.08, flip=True, **options
    )


def with_rand_augment(folder: str) -> float:
    """The same with RandAugment as ResNet strikes back has it."""
    return ours(folder, rand_ops=2)


def bare_decode(folder: str) -> float:
    """Nothing but decoding a random window: what no pipeline can beat."""
    from resnet_keras.terminal import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    from resnet_keras import augment

    files = sorted(str(path) for path in Path(folder).glob("class/*.jpg"))

    def decode(number, path):
        contents = tf.io.read_file(path)
        seed = augment.example_seed(0, 0, number)
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(contents))
        window = tf.stack(augment.random_crop_window(height, width, seed, min_area=0.08))
        image = tf.io.decode_and_crop_jpeg(contents, window, 3, dct_method="INTEGER_ACCURATE")
        return tf.reduce_max(tf.shape(image))

    stream = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    stream = stream.map(decode, tf.data.AUTOTUNE).batch(64).prefetch(2)
    return _speed(iter(stream.as_numpy_iterator()))


def torchvision(folder: str) -> float:
    """Torchvision's reference pipeline in the main process, its best on one core."""
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    pictures = datasets.ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(pictures, batch_size=64, shuffle=True, drop_last=True)

    def endless():
        while True:
            yield from loader

    return _speed(endless())


def _speed(batches, warm_up: int = 8, measured: int = 50) -> float:
    """Images a second of batches of 64."""
    import time

    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in range(measured):
        next(batches)
    return 64 * measured / (time.perf_counter() - start)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


WORKERS = {
    "ours": ours,
    "torchvision": torchvision,
    "bare decode+crop": bare_decode,
    "ours with RandAugment": with_rand_augment,
}


if __name__ == "__main__":
    main()
