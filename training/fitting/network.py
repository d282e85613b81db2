"""The network that a training fits: its first weights, its sizes, its dtypes."""

import math
import zlib

import keras
import numpy as np

import keras_nam
from keras_nam.attention import ATTENTIONS
from keras_nam.models import parse_arch
from training.fitting import devices, initial, optimizers, schedules

OF_NAM = ("gain", "gamma_penalty", "gate_gradient", "weighting")  # settings of NAM's layers alone


def compiled_model(job, classes):
    """Returns the network of a `Job` whose precision and steps are resolved, ready to fit."""
    keras.config.set_dtype_policy(job.precision)
    try:
        model = initial_model(job, classes)
    finally:
        keras.config.set_dtype_policy("float32")
    if job.init:
        initial.load(model, job.init)
    if job.recipe.is_frozen(0):
        initial.freeze(model, job.recipe.freeze)
    _compile(model, _optimizer(job), job)
    return model


def _optimizer(job):
    schedule = schedules.from_recipe(job.recipe, job.steps_per_epoch)
    optimizer = optimizers.from_recipe(job.recipe, schedule)
    if job.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def thaw(models, job):
    """Makes all layers trainable, with a new optimizer at the same step.

    Args:
        models: Return value of `at_sizes`.
        job: A `Job`.
    """
    initial.freeze(models[None], "none")
    optimizer = _optimizer(job)
    variables = models[None].trainable_variables
    optimizer.build(variables)
    optimizer.iterations.assign(models[None].optimizer.iterations)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if hasattr(inner, "started"):
        inner.started = int(np.asarray(optimizer.iterations))
    if inner.use_ema:  # Keras begins the averages at step 0 alone
        for average, variable in zip(inner._model_variables_moving_average, variables, strict=True):
            average.assign(variable)
    for model in {id(model): model for model in models.values()}.values():
        _compile(model, optimizer, job)


def _compile(model, optimizer, job):
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=job.recipe.label_smoothing
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(k=5, name="top5"),
        ],
        **devices.execution(job.steps_per_epoch),
    )


def at_sizes(model, job):
    """Returns {size: network for square images of that size}; `None` is the network's own size.

    The networks share their layers, and so their weights, and the optimizer. They run as this
    machine does, also if another one saved the model.
    """
    for name, value in devices.execution(job.steps_per_epoch).items():
        setattr(model, name, value)
    models = {None: model, job.image_size[0]: model}
    for size in {*job.recipe.progressive_sizes} - {*models}:
        models[size] = keras.models.clone_model(
            model,
            input_tensors=keras.Input((size, size, 3)),
            clone_function=lambda layer: layer,
        )
        _compile(models[size], model.optimizer, job)
    return models


def has_nam_gates(arch):
    """Whether an arch has NAM gates; a ValueError if it does not exist."""
    _, _, attention = parse_arch(arch)
    return bool(attention) and "weighting" in ATTENTIONS[attention].layer().get_config()


def initial_model(job, classes):
    """Returns the network with its first weights."""
    recipe = job.recipe
    options = {}
    if has_nam_gates(job.arch):
        penalty = keras.regularizers.L1(recipe.gamma_penalty) if recipe.gamma_penalty else None
        options = {
            "gate_gradient": recipe.gate_gradient,
            "weighting": recipe.weighting,
            "gain": recipe.gain,
            "gamma_regularizer": penalty,
        }
    shape = (*job.image_size, 3)
    model = keras_nam.create_model(job.arch, classes, shape, job.stem, **options)
    _draw_weights(model, job.seed)
    return model


def _draw_weights(model, seed):
    """Draws each kernel from the distribution of its initializer, by the seed and its layer's name.

    Keras' draws depend on the backend and on the number of draws before. So two archs with one seed
    would differ by more than their attention. The distribution is `U(-l, l)`, where
    `l = sqrt(3 * scale / fan)`.
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
    """Makes each normalization use the whole batch, across all devices of a strategy."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def with_dtype(model, dtype):
    """Returns a copy of a model with another dtype policy, and with its own variables."""

    def converted(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    copy = keras.models.clone_model(model, clone_function=converted)
    copy.set_weights([np.asarray(weight) for weight in model.get_weights()])
    return copy
