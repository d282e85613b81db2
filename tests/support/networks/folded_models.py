"""Models with the weights of trained ones, to fold and to compare."""

import keras
import numpy as np

import keras_nam
from tests.support.backends import arrays
from tests.support.weights.golden_modules import relative_error

# Float32 rounding: the folded sums round elsewhere.
TOLERANCE = 1e-5


def draw(model, seed=0):
    """Gives a model weights like a trained one's; some gammas are negative, one is 0."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if "variance" in variable.name:
            value = rng.uniform(0.5, 2.0, shape)
        elif variable.name == "gamma":
            value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1, 1], shape)
            value.flat[0] = 0
        elif "kernel" in variable.name:
            value = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        else:
            value = rng.normal(0, 0.5, shape)
        variable.assign(value)
    return model


def images(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def model_of(shape, *stack):
    """Returns a model that calls layers in turn on inputs of a shape, with drawn weights."""
    x = inputs = keras.Input(shape, name="image")
    for layer in stack:
        x = layer(x)
    return draw(keras.Model(inputs, x, name="stack"))


def normalizations(model):
    return [v.path for v in model.variables if v.name == "moving_variance"]


def assert_folds(model, x, left=0, exact=False):
    """Folds a model and compares the outputs.

    Args:
        model: The model.
        x: Its inputs.
        left: The number of normalizations that must be left.
        exact: Whether the outputs must be the same numbers.

    Returns:
        The folded model.
    """
    folded = keras_nam.fold(model)
    for actual, expected in zip(arrays(folded(x)), arrays(model(x)), strict=True):
        if exact:
            np.testing.assert_array_equal(actual, expected)
        else:
            assert relative_error(actual, expected) < TOLERANCE
    assert len(normalizations(folded)) == left
    return folded
