"""SE, CBAM, BAM and ECA: formulas in numpy, formats, and what they refuse.

CBAM and BAM are also in the golden networks, test_weights.py.
"""

import keras
import numpy as np
import pytest

from keras_nam import BAM, CBAM, ECA, SqueezeExcite
from keras_nam.attention.eca import adaptive_kernel_size
from tests.support.backends import BACKEND, arrays
from tests.support.golden_modules import relative_error

SHAPE = (3, 6, 5, 32)
LAYERS = [SqueezeExcite, CBAM, BAM, ECA]


def images(seed=0):
    return np.random.default_rng(seed).normal(0.2, 1.0, SHAPE).astype("float32")


def randomize(layer):
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.1, 1.0, w.shape) for w in layer.get_weights()])
    return layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_squeeze_excite_formula():
    layer = SqueezeExcite(reduction=8)
    layer.build(SHAPE)
    w1, b1, w2, b2 = (w.astype("float64") for w in randomize(layer).get_weights())
    means = images().astype("float64").mean((1, 2))
    weights = sigmoid(np.maximum(means @ w1 + b1, 0) @ w2 + b2)
    assert w1.shape == (32, 4)
    assert relative_error(layer(images()), images() * weights[:, None, None]) < 1e-6


def test_eca_formula():
    layer = ECA()
    layer.build(SHAPE)
    kernel = randomize(layer).get_weights()[0].astype("float64")[:, 0, 0]
    assert len(kernel) == 3
    means = np.pad(images().astype("float64").mean((1, 2)), ((0, 0), (1, 1)))
    weights = sigmoid(sum(kernel[i] * means[:, i : i + 32] for i in range(3)))
    assert relative_error(layer(images()), images() * weights[:, None, None]) < 1e-6


def test_eca_kernel_sizes_are_the_papers():
    sizes = {channels: adaptive_kernel_size(channels) for channels in (64, 128, 256, 512, 2048)}
    assert sizes == {64: 3, 128: 5, 256: 5, 512: 5, 2048: 7}


def has_channels_first_convolutions():
    try:
        keras.layers.Conv2D(1, 1, data_format="channels_first")(np.zeros((2, 1, 4, 4), "float32"))
    except Exception:
        return BACKEND != "tensorflow"
    return True


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_channels_first_is_channels_last_transposed(cls, training):
    if cls in (CBAM, BAM) and not has_channels_first_convolutions():
        pytest.skip("TensorFlow's convolutions on this CPU, without oneDNN, are channels-last only")
    last, first = cls(data_format="channels_last"), cls(data_format="channels_first")
    last.build(SHAPE)
    first.build((SHAPE[0], SHAPE[3], *SHAPE[1:3]))
    first.set_weights(randomize(last).get_weights())
    outputs = first(images().transpose(0, 3, 1, 2), training=training)
    expected = last(images(), training=training)
    assert relative_error(keras.ops.transpose(outputs, (0, 2, 3, 1)), expected) < 1e-5


@pytest.mark.parametrize("cls", [CBAM, BAM])
def test_inner_normalizations_train(cls):
    layer = cls()
    layer.build(SHAPE)
    before = [w.numpy().copy() for w in layer.non_trainable_variables]
    layer(images(), training=False)
    assert all(
        np.array_equal(b, w) for b, w in zip(before, layer.non_trainable_variables, strict=True)
    )
    layer(images(), training=True)
    assert not any(
        np.array_equal(b, w) for b, w in zip(before, layer.non_trainable_variables, strict=True)
    )


@pytest.mark.parametrize("cls", LAYERS)
def test_round_trips(cls, tmp_path):
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, cls()(inputs))
    randomize(model.layers[1])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*arrays([loaded(images()), model(images())]))
    assert loaded.layers[1].get_config() == model.layers[1].get_config()


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (None, 4, 4, None)])
def test_shapes_that_are_refused(cls, shape):
    with pytest.raises(ValueError, match="Received: input_shape="):
        cls().build(shape)


@pytest.mark.parametrize("cls", LAYERS)
def test_fewer_channels_than_the_reduction(cls):
    layer = cls()
    assert layer(np.ones((1, 4, 4, 3), "float32")).shape == (1, 4, 4, 3)
