"""A ResNet-20 on scikit-learn's handwritten digits, which need no download: train, export, predict.

    python recipes/quickstart.py

99.72 % top-1 measured here: the last epoch, seed 0, on a CPU. The recipe is ours.

The test images are the last 360, written by other people than the 1,437 training images. One image
is 0.28 %. Without --deterministic, threads add numbers in no fixed order, so another run may get a
few images more or fewer right.
"""

from resnet_keras import Recipe, train

RECIPE = Recipe(
    model="resnet20_cifar",
    dataset="digits",
    train_size=8, padding=1, rotate=15, scale=0.15, shear=0.2,
    eval_size=8,
    mean=(127.5,), std=(127.5,),
    optimizer="sgd", momentum=0.9, nesterov=True,
    batch_size=64, learning_rate=0.1,
    weight_decay=5e-4,
    epochs=120, schedule="cosine", warmup_epochs=2,
)  # fmt: skip

if __name__ == "__main__":
    recipe = RECIPE.parse(__doc__)
    run = train(recipe)

    # Imported here, so that --help needs no TensorFlow.
    import keras

    if keras.backend.backend() != "tensorflow":
        print(f"To export it, use TensorFlow: python -m resnet_keras export {run}/model.keras ...")
        raise SystemExit

    from resnet_keras import export
    from resnet_keras.evaluation import batches, open_split_for, source_for
    from resnet_keras.model_files import open_model_file
    from resnet_keras.report import write_report

    report = export(run / "model.keras", run / "model.tflite", data_dir=recipe.data_dir)
    write_report([run], data_dir=recipe.data_dir)  # once more, with the exported file
    print(
        f"{run}/model.tflite: {report['bytes']:,} bytes; on {report['examples']} test images its "
        f"probabilities differ from Keras by at most {report['max_difference']:.1e}, "
        f"its top-1 agrees on {100 * report['top1_agreement']:.1f} %"
    )

    model = open_model_file(run / "model.tflite")
    split = open_split_for(model, source_for(model, data_dir=recipe.data_dir))
    images, labels = next(batches(model, split, 8))
    for label, scores in zip(labels, model.predict(images), strict=True):
        print(f"a {label} is read as {scores.argmax()} ({100 * scores.max():.1f} %)")
