"""Channel attention of sequences, volumes and vectors."""

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.backends import arrays, training_step
from tests.support.weights.golden_modules import relative_error

TOLERANCE = 1e-6
SHAPES = [(6, 8), (6, 5, 8), (6, 4, 3, 5, 8)]
LAYERS = [
    keras_nam.NAMChannelAttention,
    keras_nam.NAM,
    keras_nam.SqueezeExcite,
    keras_nam.ECA,
]


def inputs(shape):
    return np.random.default_rng(0).normal(0.3, 1, shape).astype("float32")


def built(cls, shape, **options):
    layer = cls(**options)
    layer.build(shape)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.2, 1.0, w.shape) for w in layer.get_weights()])
    return layer


def assert_equal_steps(layer, x, other, other_x, order):
    """Both layers have the same outputs, gradients and statistics; in inference, the same outputs.

    Args:
        layer, other: Built layers of equal weights.
        x, other_x: Their inputs.
        order: Function of an array of the shape of `x` that gives `other`'s shape.
    """
    upstream = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    (expected,), (found,) = arrays(other(other_x)), arrays(layer(x))
    assert relative_error(order(found), expected) < TOLERANCE
    outputs, dx, *gradients = training_step(layer, x, upstream)
    other_outputs, other_dx, *other_gradients = training_step(other, other_x, order(upstream))
    assert relative_error(order(outputs), other_outputs) < TOLERANCE
    assert relative_error(order(dx), other_dx) < TOLERANCE
    assert len(gradients) == len(layer.trainable_variables)
    pairs = [*zip(gradients, other_gradients, strict=True)]
    pairs += zip(layer.get_weights(), other.get_weights(), strict=True)
    for one, another in pairs:
        assert relative_error(one, another) < TOLERANCE


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_positions_are_those_of_an_image(cls, shape):
    """The result is the one of an image [N, P, 1, C] with the same positions."""
    x = inputs(shape)
    layer, image = built(cls, shape), built(cls, (shape[0], 1, 1, shape[-1]))

    def order(array):
        return array.reshape(shape[0], -1, 1, shape[-1])

    assert_equal_steps(layer, x, image, order(x), order)


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_channels_first(cls, shape):
    x = inputs(shape)
    first = (shape[0], shape[-1], *shape[1:-1])
    last, other = built(cls, shape), built(cls, first, data_format="channels_first")

    def order(array):
        return np.ascontiguousarray(np.moveaxis(array, -1, 1))

    assert_equal_steps(last, x, other, order(x), order)


@pytest.mark.parametrize("cls", LAYERS)
def test_saved_and_folded_in_a_network_of_signals(cls, tmp_path):
    signal = keras.Input((20, 3))
    x = keras.layers.Conv1D(8, 3, use_bias=False)(signal)
    x = keras_nam.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling1D()(cls()(x))
    model = keras.Model(signal, keras.layers.Dense(4)(x))
    rng = np.random.default_rng(2)
    model.set_weights([rng.uniform(0.2, 1.0, w.shape) for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = inputs((5, 20, 3))
    expected = arrays(model(x))[0]
    np.testing.assert_array_equal(arrays(again(x))[0], expected)
    np.testing.assert_allclose(arrays(keras_nam.fold(model)(x))[0], expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [keras_nam.CBAM, keras_nam.BAM, keras_nam.NAMSpatialAttention])
def test_others_say_that_they_need_images(cls):
    with pytest.raises(ValueError, match="rank 4"):
        cls()(inputs((6, 5, 8)))


def test_an_axis_that_the_inputs_do_not_have():
    with pytest.raises(ValueError, match="an axis 3"):
        keras_nam.NAMChannelAttention(axis=3)(inputs((6, 5, 8)))


@pytest.mark.parametrize("cls", LAYERS)
def test_rank_1_is_refused(cls):
    with pytest.raises(ValueError, match="rank 2 or more"):
        cls().build((8,))
