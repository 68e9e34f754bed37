"""Evaluation and prediction of JPEG files in folders, from decoding to scores.

All networks are ResNet-50 with random weights: speed does not depend on how well it was trained.
keras.applications' is version 1, which has 6 % fewer multiply-adds than ours and torchvision's.
"""

import time
from collections.abc import Callable
from pathlib import Path

from contestants.inference import our_model
from contestants.pipelines import IMAGES

BATCH = 32


def ours_evaluate(folder: str) -> dict:
    """`evaluate` with an open model file, as the networks of the others are there before."""
    from resnet_keras.evaluation import evaluate
    from resnet_keras.model_files import open_model_file

    model_file = open_model_file(our_model(folder))
    images = f"folder:{_images(folder)}"
    return _speed(lambda: evaluate(model_file, dataset=images, batch_size=BATCH))


def ours_predict(folder: str) -> dict:
    """`predict`, likewise."""
    path = our_model(folder)
    from resnet_keras.evaluation import predict
    from resnet_keras.model_files import open_model_file

    model_file = open_model_file(path)
    return _speed(lambda: predict(model_file, _images(folder)))


def applications_evaluate(folder: str) -> dict:
    """keras.applications' network and Keras' own data set and loop."""
    import keras

    model = keras.applications.ResNet50(weights=None)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return _speed(lambda: model.evaluate(_directory(folder), verbose=0))


def applications_predict(folder: str) -> dict:
    """The same, and scores."""
    import keras

    model = keras.applications.ResNet50(weights=None)
    return _speed(lambda: model.predict(_directory(folder), verbose=0))


def _directory(folder: str):
    """Images as Keras' guides read them: whole, resized, normalised as the network wants."""
    import keras

    images = keras.utils.image_dataset_from_directory(
        _images(folder), image_size=(224, 224), batch_size=BATCH, shuffle=False, verbose=False
    )
    prepare = keras.applications.resnet50.preprocess_input
    return images.map(lambda some, labels: (prepare(some), labels)).prefetch(2)


def torchvision(folder: str) -> dict:
    """Torchvision's network and reference evaluation, decoding in two processes."""
    import torch
    from torchvision import datasets, models, transforms

    steps = [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    images = datasets.ImageFolder(_images(folder), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH, num_workers=2)
    model = models.resnet50().eval()

    def scores():
        with torch.inference_mode():
            for batch, _ in loader:
                torch.softmax(model(batch), 1).argmax(1)

    return _speed(scores)


def _images(folder: str) -> Path:
    return Path(folder) / "images"


def _speed(work: Callable[[], object]) -> dict:
    """Images per second of a second pass: the first one traces, and reads the files from disk."""
    work()
    start = time.perf_counter()
    work()
    return {"images_per_second": IMAGES / (time.perf_counter() - start)}
