"""SE, CBAM, BAM and ECA: formulas in numpy, formats, and refused shapes.

CBAM and BAM are also in the golden networks, test_weights.py.
"""

import keras
import numpy as np
import pytest

from keras_nam import BAM, CBAM, ECA, NAM, SqueezeExcite
from keras_nam.attention.eca import adaptive_kernel_size
from tests.support.backends import BACKEND, arrays, training_step
from tests.support.weights.golden_modules import relative_error

SHAPE = (3, 6, 5, 32)
LAYERS = [SqueezeExcite, CBAM, BAM, ECA]


def images(seed=0):
    return np.random.default_rng(seed).normal(0.2, 1.0, SHAPE).astype("float32")


def built(cls, shape=SHAPE, **options):
    """A layer with random weights."""
    layer = cls(**options)
    layer.build(shape)
    rng = np.random.default_rng(1)
    layer.set_weights([rng.uniform(0.1, 1.0, w.shape) for w in layer.get_weights()])
    return layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_squeeze_excite_formula():
    layer = built(SqueezeExcite, reduction=8)
    w1, b1, w2, b2 = (w.astype("float64") for w in layer.get_weights())
    means = images().astype("float64").mean((1, 2))
    weights = sigmoid(np.maximum(means @ w1 + b1, 0) @ w2 + b2)
    assert w1.shape == (32, 4)
    assert relative_error(layer(images()), images() * weights[:, None, None]) < 1e-6


def test_eca_formula():
    layer = built(ECA)
    kernel = layer.get_weights()[0].astype("float64")[:, 0, 0]
    means = np.pad(images().astype("float64").mean((1, 2)), ((0, 0), (1, 1)))
    weights = sigmoid(sum(kernel[i] * means[:, i : i + 32] for i in range(3)))
    assert relative_error(layer(images()), images() * weights[:, None, None]) < 1e-6
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
    last = built(cls, data_format="channels_last")
    first = built(cls, (SHAPE[0], SHAPE[3], *SHAPE[1:3]), data_format="channels_first")
    outputs = first(images().transpose(0, 3, 1, 2), training=training)
    expected = last(images(), training=training)
    assert relative_error(keras.ops.transpose(outputs, (0, 2, 3, 1)), expected) < 1e-5


@pytest.mark.parametrize("cls", LAYERS)
def test_every_weight_has_a_gradient_and_every_statistic_moves(cls):
    layer = built(cls)
    layer.set_weights([0.1 * weight for weight in layer.get_weights()])  # no saturated sigmoid
    before = arrays(layer.non_trainable_variables)
    layer(images(), training=False)
    for old, new in zip(before, arrays(layer.non_trainable_variables), strict=True):
        np.testing.assert_array_equal(old, new)
    _, *gradients = training_step(layer, images(), images(seed=2))
    assert all(np.any(gradient) for gradient in gradients)
    for old, new in zip(before, arrays(layer.non_trainable_variables), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("cls", LAYERS)
def test_round_trips(cls, tmp_path):
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, built(cls)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*arrays([loaded(images()), model(images())]))
    assert loaded.layers[1].get_config() == model.layers[1].get_config()


@pytest.mark.parametrize("cls", [*LAYERS, NAM])
def test_a_frozen_layer_stays_frozen(cls, tmp_path):
    """Also its inner layers, which a copy creates after `trainable` was set."""
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, cls()(inputs))
    model.layers[1].trainable = False
    model.save(tmp_path / "model.keras")
    frozen_before_build = cls()
    frozen_before_build.trainable = False
    frozen_before_build.build(SHAPE)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for copy in (loaded, keras.models.clone_model(model), frozen_before_build):
        assert not [v.path for v in copy.variables if v.trainable]
    loaded.layers[1].trainable = True
    assert loaded.trainable_variables


@pytest.mark.parametrize("cls", LAYERS)
def test_channels(cls):
    """Fewer of them than the reduction are accepted; an unknown number is refused."""
    assert cls()(np.ones((1, 4, 4, 3), "float32")).shape == (1, 4, 4, 3)
    with pytest.raises(ValueError, match="Received: input_shape="):
        cls().build((None, 4, 4, None))
