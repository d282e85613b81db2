"""Channel attention of sequences, volumes and vectors."""

import keras
import numpy as np
import pytest

import keras_nam
from tests.support.backends import arrays

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


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_positions_are_those_of_an_image(cls, shape):
    """The result is the one of an image [N, P, 1, C] with the same positions."""
    x = inputs(shape)
    for training in (False, True):
        layer, image = built(cls, shape), built(cls, (shape[0], 1, 1, shape[-1]))
        options = {"training": training} if cls in LAYERS[:2] else {}
        expected = image(x.reshape(shape[0], -1, 1, shape[-1]), **options)
        np.testing.assert_allclose(
            arrays(layer(x, **options))[0].ravel(), arrays(expected)[0].ravel(), rtol=0, atol=2e-6
        )
        for one, other in zip(layer.get_weights(), image.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cls", LAYERS)
def test_channels_first(cls):
    x = inputs((6, 4, 5, 8))
    last, first = built(cls, x.shape), built(cls, (6, 8, 20), data_format="channels_first")
    expected = np.moveaxis(arrays(last(x))[0].reshape(6, 20, 8), -1, 1)
    found = arrays(first(np.moveaxis(x.reshape(6, 20, 8), -1, 1)))[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


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


@pytest.mark.parametrize("cls", LAYERS)
def test_rank_1_is_refused(cls):
    with pytest.raises(ValueError, match="rank 2 or more"):
        cls().build((8,))
