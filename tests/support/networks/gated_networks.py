"""Small networks whose gates are not all alike, as those of a new network are."""

import keras
import numpy as np

from keras_nam import BatchNormalization
from keras_nam.attention import ATTENTIONS
from keras_nam.gates import gates_of
from training import recipes, settings
from training.runs import files

IMAGES = np.random.default_rng(0).normal(size=(12, 32, 32, 3)).astype("float32")


def network(attention="nam", width=16):
    """Returns a network of two gated convolutions with random normalizations and 10 classes."""
    keras.utils.set_random_seed(0)
    images = x = keras.Input((32, 32, 3))
    for number in (1, 2):
        x = keras.layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        x = BatchNormalization(name=f"stage{number}_block1_bn")(x)
        x = ATTENTIONS[attention].layer(name=f"stage{number}_block1_{attention}")(x)
        x = keras.layers.ReLU()(x)
    for layer in (keras.layers.Conv2D(8, 1), BatchNormalization(), keras.layers.Conv2D(8, 1)):
        x = layer(x)  # channels that `keras_nam.slim` can remove
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(10)(x))
    model.layers[-1].kernel.assign(10 * model.layers[-1].kernel)  # so that the gates count
    rng = np.random.default_rng(1)
    for gate in gates_of(model):
        size = gate.gamma.shape
        gate.gamma.assign(rng.normal(size=size))
        gate.beta.assign(rng.normal(size=size))
        gate.moving_mean.assign(rng.normal(size=size))
        gate.moving_variance.assign(rng.uniform(0.5, 2, size))
    return model


def run_folder(folder, attention="nam"):
    """Writes the files of a run on the synthetic set that the report reads; returns the folder."""
    folder.mkdir()
    network(attention).save(folder / "best.keras")
    config = {
        "arch": f"r18_{attention}",
        "dataset": "synthetic",
        "validation_split": 0.0,
        "seed": 0,
        "recipe_settings": settings.as_json(recipes.get("fast")),
    }
    files.write_json(folder / "config.json", config)
    return folder
