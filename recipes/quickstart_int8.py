"""The ResNet-20 of the quickstart, fine-tuned for int8. The recipe is ours; nobody published one.

    python recipes/quickstart_int8.py

Not measured here. It starts from the model that `python recipes/quickstart.py` trains.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import quickstart

RECIPE = replace(
    quickstart.RECIPE,
    weights="runs/quickstart/model.keras",
    quantize=True,
    precision="float32",                      # bfloat16 rounds about as coarsely as int8
    learning_rate=0.001,
    weight_decay=0.0,                         # no batch norm is left to make up for it
    epochs=10, warmup_epochs=0,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
