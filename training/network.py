"""The network that a training fits: its first weights, its sizes, its dtypes."""

import keras
import numpy as np
import tensorflow as tf

import keras_nam
from training import devices, schedules
from training.optimizers import SGD


def compiled_model(job, dataset, steps, precision):
    """Returns the network, ready to fit."""
    recipe = job.recipe
    keras.config.set_dtype_policy(precision)
    try:
        model = initial_model(job, len(dataset.class_names))
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = SGD(
        schedules.from_recipe(recipe, steps),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
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
        steps_per_execution=devices.steps_per_execution(steps),
        # On the CPU, XLA's convolutions are slower than oneDNN's.
        jit_compile=bool(tf.config.list_physical_devices("GPU")),
    )


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
    """Returns the network; what it shares with its plain backbone begins with the same weights.

    Attentions draw weights of their own, after which each layer would begin otherwise: two archs
    with one seed would differ by more than their attention.
    """
    recipe = job.recipe
    plain, _, attention = job.arch.partition("_")
    options = {}
    if "nam" in attention:
        penalty = keras.regularizers.L1(recipe.gamma_penalty) if recipe.gamma_penalty else None
        options = {
            "gate_gradient": recipe.gate_gradient,
            "weighting": recipe.weighting,
            "gamma_regularizer": penalty,
        }
    backbone = keras_nam.create_model(plain, classes, stem=job.stem)
    if not attention:
        return backbone
    model = keras_nam.create_model(job.arch, classes, stem=job.stem, **options)
    for layer in backbone.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def with_dtype(model, dtype):
    """Returns a copy of a model of any dtype policies with another, in variables of its own."""

    def converted(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    copy = keras.models.clone_model(model, clone_function=converted)
    copy.set_weights([np.asarray(weight) for weight in model.get_weights()])
    return copy
