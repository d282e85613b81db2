"""The values of a model's gates."""

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.backends import arrays, tensorflow_only


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 1.0, w.shape) for w in model.get_weights()])
    return model


def images(size=8):
    return np.random.default_rng(1).normal(size=(2, size, size, 3)).astype("float32")


def expected(gate, x):
    weights = np.abs(gate.gamma) / np.abs(gate.gamma).sum()
    z = (x - np.asarray(gate.moving_mean)) / np.sqrt(np.asarray(gate.moving_variance) + 1e-5)
    z = weights * (np.asarray(gate.gamma) * z + np.asarray(gate.beta))
    return 1 / (1 + np.exp(-z))


def test_values_are_the_formulas_and_the_model_is_as_before():
    model = randomized(keras_nam.create_model("r18w4_nam", 5, (8, 8, 3)))
    before = arrays(model(images()))[0]
    values = keras_nam.gate_values(model, images())
    assert len(values) == 8
    assert next(iter(values)).endswith("stage1_block1_nam")
    gate = model.get_layer("stage1_block1_nam")
    x = arrays(keras.Model(model.input, gate.input)(images()))[0]
    np.testing.assert_allclose(next(iter(values.values())), expected(gate, x), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(arrays(model(images()))[0], before)
    assert gate.record is None


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.gate = keras_nam.NAMChannelAttention()
        self.pair = keras_nam.NAM(spatial=True)

    def call(self, x):
        return self.pair(self.gate(self.gate(x)))


def test_subclassed_nested_and_shared_gates():
    inner = Subclassed()
    inner(images())
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner])
    values = keras_nam.gate_values(outer, images())
    assert [value.shape for value in values.values()] == 4 * [(2, 8, 8, 3)]
    assert [name for name in values if name.endswith("#2")]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_spatial_values_are_outputs_divided_by_inputs(data_format):
    gate = keras_nam.NAMSpatialAttention(data_format=data_format)
    x = images() + 3
    gate(x)
    randomized(gate)
    (values,) = keras_nam.gate_values(gate, x).values()
    np.testing.assert_allclose(values, arrays(gate(x))[0] / x, rtol=0, atol=1e-5)


def test_a_model_without_gates():
    with pytest.raises(ValueError, match="no NAM gate"):
        keras_nam.gate_values(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), None)


@tensorflow_only
def test_gates_in_a_function_that_is_traced_already():
    import tensorflow as tf

    class Compiled(Subclassed):
        call = tf.function(Subclassed.call)

    model = Compiled()
    model(images(), training=False)
    with pytest.raises(ValueError, match="called none of its NAM gates"):
        keras_nam.gate_values(model, images())
