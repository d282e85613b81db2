"""The network that a training fits: its first weights, its sizes, its dtypes."""

import math
import zlib

import keras
import numpy as np

import keras_nam
from training.fitting import devices, optimizers, schedules


def compiled_model(job, dataset, steps, precision):
    """Returns the network, ready to fit."""
    recipe = job.recipe
    keras.config.set_dtype_policy(precision)
    try:
        model = initial_model(job, len(dataset.class_names))
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = optimizers.from_recipe(recipe, schedules.from_recipe(recipe, steps))
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    _compile(model, optimizer, recipe, steps)
    return model


def _compile(model, optimizer, recipe, steps):
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(k=5, name="top5"),
        ],
        **devices.execution(steps),
    )


def execute_here(model, steps):
    """Makes a loaded model run its steps as this machine does, not as the one that saved it."""
    for name, value in devices.execution(steps).items():
        setattr(model, name, value)


def at_sizes(model, recipe, steps):
    """Returns size -> the network for square images of that size, for each size of the recipe.

    They are made of the same layers and have the same optimizer: what one learns, all have.
    """
    models = {model.input_shape[1]: model}
    for size in recipe.image_sizes:
        if size not in models:
            models[size] = keras.models.clone_model(
                model,
                input_tensors=keras.Input((size, size, 3)),
                clone_function=lambda layer: layer,
            )
            _compile(models[size], model.optimizer, recipe, steps)
    return models


def initial_model(job, classes):
    """Returns the network with its first weights."""
    recipe = job.recipe
    _, _, attention = job.arch.partition("_")
    options = {}
    if "nam" in attention:
        penalty = keras.regularizers.L1(recipe.gamma_penalty) if recipe.gamma_penalty else None
        options = {
            "gate_gradient": recipe.gate_gradient,
            "weighting": recipe.weighting,
            "gamma_regularizer": penalty,
        }
    model = keras_nam.create_model(job.arch, classes, stem=job.stem, **options)
    _draw_weights(model, job.seed)
    return model


def _draw_weights(model, seed):
    """Draws each kernel anew, from the seed and the name of its layer alone.

    Keras' draws depend on the backend, and on how many there were before: two archs with one seed
    would differ by more than their attention. A kernel's distribution is its initializer's,
    `U(-l, l)` with `l = sqrt(3 * scale / fan)`.
    """
    for layer in model.layers:
        for number, inner in enumerate(layer._flatten_layers()):
            initializer = getattr(inner, "depthwise_initializer", None) or getattr(
                inner, "kernel_initializer", None
            )
            if initializer is None:
                continue
            assert initializer.distribution == "uniform", inner.name
            shape = inner.kernel.shape
            fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
            fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
            limit = math.sqrt(3 * initializer.scale / fans[initializer.mode])
            rng = np.random.default_rng([seed, zlib.crc32(f"{layer.name}/{number}".encode())])
            inner.kernel.assign(rng.uniform(-limit, limit, shape).astype("float32"))


def synchronize(model):
    """Makes the normalizations those of the whole batch, of all devices of a strategy."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def with_dtype(model, dtype):
    """Returns a copy of a model of any dtype policies with another, in variables of its own."""

    def converted(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    copy = keras.models.clone_model(model, clone_function=converted)
    copy.set_weights([np.asarray(weight) for weight in model.get_weights()])
    return copy
