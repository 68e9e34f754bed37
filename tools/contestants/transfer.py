"""A new last layer on a frozen ResNet-50: JPEG files to a trained and tested model."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CLASSES, EPOCHS, BATCH, SIZE = 5, 30, 32, 224

# All but the last layer frozen, nothing augmented; two epochs where the others follow from them.
RECIPE = """
import sys
from resnet_keras import Recipe, train

folder, run_dir, epochs, views = sys.argv[1:]
train(Recipe(
    model="resnet50", weights=folder + "/start.keras", skip_head=True, freeze=4, views=int(views),
    dataset="folder:" + folder + "/images", train_size=224, eval_size=224, eval_resize=256,
    batch_size=32, learning_rate=0.01, epochs=int(epochs), schedule="cosine", logger="none",
    run_dir=run_dir,
))
"""

# https://keras.io/guides/transfer_learning without its augmentation and dropout.
GUIDE = """
import sys
import keras

folder, epochs = sys.argv[1:]
train, val = (
    keras.utils.image_dataset_from_directory(
        f"{folder}/images/{split}", image_size=(224, 224), batch_size=32
    )
    for split in ("train", "val")
)
base = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
base.trainable = False
inputs = keras.Input((224, 224, 3))
x = keras.applications.resnet.preprocess_input(inputs)
x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
model = keras.Model(inputs, keras.layers.Dense(5)(x))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])


class Said(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(f"Epoch {epoch + 1}/", flush=True)


model.fit(train, validation_data=val, epochs=int(epochs), verbose=0, callbacks=[Said()])
"""


def write(folder: Path, images: int) -> None:
    """Write JPEGs, four fifths of each class for training, and the weights to start from."""
    from PIL import Image
    from sklearn.datasets import load_sample_images
    from synthetic_imagenet import crop

    photographs = load_sample_images().images
    for i in range(images):
        split = "val" if i // CLASSES % 5 == 4 else "train"
        path = folder / "images" / split / f"class {i % CLASSES}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crop(photographs, i)[0])
    with Image.open(path) as image:
        assert image.size == (500, 375)
    save = "import sys, resnet_keras; resnet_keras.ResNet('resnet50').save(sys.argv[1])"
    subprocess.run([sys.executable, "-c", save, folder / "start.keras"], check=True, stdout=2)


def ours(folder: str) -> dict:
    """All epochs, as a user runs them."""
    return _ours(folder, EPOCHS, 1)


def plain(folder: str) -> dict:
    """The same where each epoch computes the features anew."""
    return _ours(folder, 2, 0)


def guide(folder: str) -> dict:
    """Keras' guide, which has no test at its end."""
    return _timed([GUIDE, folder, "2"], 2)


def forward(folder: str) -> dict:
    """One pass of the network over all images, without the start of the process."""
    from resnet_keras import data
    from resnet_keras.console import load_tensorflow

    load_tensorflow()
    from resnet_keras.evaluation import predict_split
    from resnet_keras.model_files import Metadata, open_model_file
    from resnet_keras.preprocessing import Preprocessing

    path = Path(folder) / "start.keras"
    Metadata(Preprocessing((SIZE, SIZE), 256)).write(path)
    images = data.Source(f"folder:{folder}/images", "all").open()
    model = open_model_file(path)
    start = time.perf_counter()
    predict_split(model, images, BATCH)
    return {"seconds": time.perf_counter() - start}


def _ours(folder: str, epochs: int, views: int) -> dict:
    run = f"{folder}/run-{views}-{time.time_ns()}"
    return _timed([RECIPE, folder, run, str(epochs), str(views)], epochs)


def _timed(arguments: list[str], epochs: int) -> dict:
    """Seconds from the start of a process to its end, and to the end of its first epoch.

    Where fewer epochs than `EPOCHS` are measured, each of the others counts as the last one.
    """
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    ends = [when - start for when in _epoch_ends(process.stdout)]
    if process.wait():
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - start
    answer = {"measured_seconds": seconds, "measured_epochs": epochs}
    if epochs < EPOCHS:
        seconds += (EPOCHS - epochs) * (ends[-1] - ends[-2])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {**answer, "seconds": seconds, "first_epoch_seconds": ends[0], "peak_MiB": peak}


def _epoch_ends(lines: Iterator[str]) -> Iterator[float]:
    """When each line that ends an epoch was read."""
    for line in lines:
        if line.startswith("Epoch "):
            yield time.perf_counter()
