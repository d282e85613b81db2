"""Small networks whose gates are not all alike, as those of a new network are."""

import dataclasses

import keras
import numpy as np

import keras_nam
from training import recipes, runs
from training.gate_values import gates

IMAGES = np.random.default_rng(0).normal(size=(12, 32, 32, 3)).astype("float32")


def network(arch="r18w4_nam", classes=10):
    """Returns a network with random normalizations, some of the gates' gammas below 0."""
    keras.utils.set_random_seed(0)
    model = keras_nam.create_model(arch, classes)
    rng = np.random.default_rng(1)
    for gate in gates(model):
        size = gate.gamma.shape
        gate.gamma.assign(rng.normal(size=size))
        gate.beta.assign(rng.normal(size=size))
        gate.moving_mean.assign(rng.normal(size=size))
        gate.moving_variance.assign(rng.uniform(0.5, 2, size))
    return model


def run_folder(folder, arch="r18w4_nam"):
    """Writes what the report reads of a run on the synthetic set; returns the folder."""
    folder.mkdir()
    network(arch).save(folder / "best.keras")
    config = {
        "arch": arch,
        "dataset": "synthetic",
        "validation_split": 0.0,
        "seed": 0,
        "recipe_settings": dataclasses.asdict(recipes.get("fast")),
    }
    runs.write_json(folder / "config.json", config)
    return folder
