"""The gates' values against the layers' own outputs, and their spread against numpy's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gated_networks import IMAGES, network

import keras_nam
from training import gate_values


@pytest.mark.parametrize("arch", ["r18w4_nam", "r18w4_nam_full"])
def test_values_are_what_the_folded_gates_multiply_by(arch):
    model = network(arch)
    folded = keras_nam.fold(model)
    named = gate_values.named_gates(model)
    ends = [(folded.get_layer(name).input, folded.get_layer(name).output) for name in named]
    pairs = keras.Model(folded.input, ends).predict(IMAGES, verbose=0)
    values = gate_values.value_function(model)(IMAGES)
    assert len(values) == len(named) == (16 if arch.endswith("full") else 8)
    for value, (x, y) in zip(values, pairs, strict=True):
        assert value.shape == x.shape
        # Nearer to 0 the quotient loses its digits.
        where = np.abs(x) > 1e-2
        np.testing.assert_allclose(value.numpy()[where], y[where] / x[where], atol=2e-5)


@pytest.mark.parametrize("layer", [keras_nam.NAMChannelAttention, keras_nam.NAMSpatialAttention])
def test_channels_first(layer):
    images = keras.Input((5, 3, 4))
    model = keras.Model(images, layer(data_format="channels_first")(images))
    (gate,) = gate_values.gates(model)
    gate.gamma.assign(np.arange(1, 1 + gate.gamma.shape[0]))
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype("float32")
    (value,) = gate_values.value_function(model)(x)
    np.testing.assert_allclose(value, model(x) / x, rtol=1e-4)
    spread = gate_values.distribution(gate, value)
    means = value.numpy().mean((0, 2, 3) if gate.axis == 1 else (0, 1)).ravel()
    np.testing.assert_allclose(spread.unit_means, means, atol=1e-6)
    np.testing.assert_allclose(
        gate_values.over_positions(gate, value), value.numpy().mean(1), atol=1e-6
    )


def test_spread_by_hand():
    """Two channels, w = 1/2: one at 0.5, the other at 0.6 in one image and 0.8 in the next."""
    images = keras.Input((2, 3, 2))
    model = keras.Model(images, keras_nam.NAMChannelAttention(epsilon=0.0)(images))
    values = np.full((2, 2, 3, 2), 0.5)
    values[0, ..., 1], values[1, ..., 1] = 0.6, 0.8
    x = (2 * np.log(values / (1 - values))).astype("float32")
    stream = tf.data.Dataset.from_tensor_slices((x, [0, 0])).batch(1)
    (spread,) = gate_values.distributions(model, stream).values()
    assert spread.count == 12
    assert spread.mean == pytest.approx(0.6, abs=1e-6)
    assert spread.std_between == pytest.approx(0.1, abs=1e-6)
    assert spread.std_within == pytest.approx(0.05, abs=1e-6)
    assert spread.std == pytest.approx(np.sqrt(0.1**2 + 0.1**2 / 2), abs=1e-6)
    assert spread.share_between == pytest.approx(2 / 3, abs=1e-5)
    assert (spread.low, spread.high) == pytest.approx((0.5, 0.8), abs=1e-6)
    assert spread.near_half == 0.5


def test_spread_equals_numpy_over_all_batches():
    model = network("r18w4_nam_full")
    stream = tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(len(IMAGES)))).batch(5)
    found = gate_values.distributions(model, stream)
    named = gate_values.named_gates(model)
    assert list(found) == list(named)
    values = gate_values.value_function(model)(IMAGES)
    for (name, spread), value in zip(found.items(), values, strict=True):
        value = value.numpy().astype("float64")
        axes = (0, 3) if gate_values.units(named[name]) == "positions" else (0, 1, 2)
        assert spread.mean == pytest.approx(value.mean(), abs=1e-6)
        assert spread.std == pytest.approx(value.std(), rel=1e-4)
        assert spread.std_between == pytest.approx(value.mean(axes).std(), rel=1e-4)
        assert spread.std_within == pytest.approx(value.std(axes).mean(), rel=1e-4)
        near = np.abs(value - 0.5) <= 1e-3
        assert spread.near_half == pytest.approx(near.mean(), abs=1e-4)
        assert (spread.low, spread.high) == pytest.approx((value.min(), value.max()), abs=1e-6)
        assert spread.counts.sum() == spread.histogram()[0].sum() == value.size
        shares = [0.01, 0.1, 0.6, 0.9]  # none between the values of two of four channels
        np.testing.assert_allclose(
            spread.quantiles(shares) - 0.5, np.quantile(value, shares) - 0.5, rtol=0.03, atol=2e-6
        )


def test_values_follow_the_weights():
    model = network()
    values = tf.function(gate_values.value_function(model))
    before = values(IMAGES)[0].numpy()
    gate_values.gates(model)[0].gamma.assign(np.zeros(4))
    assert np.ptp(before) > 0.1
    np.testing.assert_array_equal(values(IMAGES)[0], np.full(before.shape, 0.5))
