"""A finished run of a small network with random weights, made in a second without a training."""

import dataclasses

import numpy as np

import keras_nam
from training import recipes
from training.data import datasets, streams
from training.runs import files, saved_model
from training.runs.scores import evaluate

RECIPE = recipes.FAST


def randomize(model, seed=0):
    """Draws weights like those after a training: no normalization keeps its initial values."""
    rng = np.random.default_rng(seed)
    draws = {
        "gamma": lambda shape: rng.uniform(0.5, 1.5, shape),
        "beta": lambda shape: rng.normal(0, 0.2, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.2, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 1.5, shape),
        "bias": lambda shape: rng.normal(0, 0.1, shape),
    }
    for weight in model.weights:
        if weight.name in draws:
            weight.assign(draws[weight.name](weight.shape))
        else:
            fan_in = np.prod(weight.shape[:-1])
            weight.assign(rng.normal(0, (1.5 / fan_in) ** 0.5, weight.shape))


def scale_logits(model, images, largest=12.0):
    """Scales the last layer so that the largest logit is as large as after a training."""
    kernel = model.layers[-1].kernel
    kernel.assign(kernel * (largest / np.abs(model.predict(images, verbose=0)).max()))


def make(folder, arch="r18w4_nam", seed=0, fold=True, model=None):
    """Makes a run folder on the synthetic set, of another `model` if given; returns its path."""
    dataset = datasets.load("synthetic")
    model = model or keras_nam.create_model(arch, num_classes=len(dataset.class_names))
    randomize(model, seed)
    scale_logits(model, streams.normalize(dataset.test.images[:64], RECIPE.mean, RECIPE.std))
    scores = evaluate(model, streams.evaluation_stream(dataset.test, 64, RECIPE.mean, RECIPE.std))
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "best.keras")
    config = {
        "arch": arch,
        "dataset": "synthetic",
        "validation_split": 0.0,
        "seed": seed,
        "precision": "float32",
        "recipe_settings": dataclasses.asdict(RECIPE),
        "environment": files.environment(),
    }
    files.write_json(folder / "config.json", config)
    saved_model.save(
        model, folder / "saved_model", dataset.class_names, RECIPE.mean, RECIPE.std, fold=fold
    )
    files.write_json(folder / "result.json", {"arch": arch, "top1": scores["top1"]})
    return folder
