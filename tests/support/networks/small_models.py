"""Models small enough to compare every weight of."""

import contextlib
import inspect

import keras
import numpy as np
import pytest

import keras_nam

needs_renorm = pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
    reason="Keras below 3.14 has no renorm",
)


@contextlib.contextmanager
def created_under(policy="float32", data_format="channels_last"):
    """Sets Keras' global dtype policy and data format for a while."""
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")


def values_of(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.weights]


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape))
    return values_of(model)


def assert_equal(model, values):
    for variable, ours, value in zip(model.weights, values_of(model), values, strict=True):
        np.testing.assert_array_equal(ours, value, err_msg=variable.path)


def tiny_checkpoint(arch="r18w8_nam", **options):
    model = keras_nam.create_model(arch, **options)
    randomize(model, seed=1)
    return keras_nam.to_torch_state_dict(model)
