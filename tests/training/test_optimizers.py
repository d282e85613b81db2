"""SGD against its definition, and against what it must not be."""

import keras
import numpy as np
import pytest

from training.optimizers import SGD

RATES = [0.1, 0.05, 0.4, 0.01]


def steps(optimizer, rates=RATES):
    """Returns a parameter after steps with a gradient that depends on it."""
    variable = keras.Variable(np.array([1.0, -2.0, 3.0], "float32"))
    for i, rate in enumerate(rates):
        optimizer.learning_rate = rate
        optimizer.apply([np.cos(np.asarray(variable)) + i], [variable])
    return np.asarray(variable)


def reference(momentum, weight_decay, nesterov, rates=RATES):
    """PyTorch's definition, in numpy."""
    p, v = np.array([1.0, -2.0, 3.0]), np.zeros(3)
    for i, rate in enumerate(rates):
        g = np.cos(p) + i + weight_decay * p
        v = momentum * v + g
        p = p - rate * (g + momentum * v if nesterov else v)
    return p


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_definition(momentum, weight_decay, nesterov):
    actual = steps(SGD(0.1, momentum, weight_decay, nesterov))
    np.testing.assert_allclose(actual, reference(momentum, weight_decay, nesterov), rtol=1e-5)


def test_it_is_neither_keras_decay_nor_keras_momentum():
    ours = steps(SGD(0.1, 0.9, 0.1))
    assert np.abs(ours - steps(keras.optimizers.SGD(0.1, 0.9, weight_decay=0.1))).max() > 0.01
    ours = steps(SGD(0.1, 0.9, 0.0))
    assert np.abs(ours - steps(keras.optimizers.SGD(0.1, 0.9))).max() > 0.01


def test_excluded_variables_do_not_decay():
    optimizer = SGD(0.1, 0.9, 0.1)
    variable = keras.Variable(np.ones(2, "float32"), name="free")
    optimizer.exclude_from_weight_decay([variable])
    optimizer.apply([np.zeros(2, "float32")], [variable])
    np.testing.assert_array_equal(variable, np.ones(2))


def test_config_round_trip():
    optimizer = SGD(0.2, 0.8, 1e-3, nesterov=True)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert (copy.momentum, copy.weight_decay, copy.nesterov) == (0.8, 1e-3, True)
