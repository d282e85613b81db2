"""The gates' values against the layers' own outputs, and their distributions against numpy's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from keras_nam.gates import gates_of
from tests.support.networks.gated_networks import IMAGES, network
from training.gating import values as gate_values


@pytest.mark.parametrize("attention", ["nam", "nam_full"])
def test_values_are_what_the_folded_gates_multiply_by(attention):
    model = network(attention)
    folded = keras_nam.fold(model)
    named = gate_values.named_gates(model)
    ends = [(folded.get_layer(name).input, folded.get_layer(name).output) for name in named]
    pairs = keras.Model(folded.input, ends)(IMAGES)
    values = gate_values.value_function(model)(IMAGES)
    assert len(values) == len(named) == (4 if attention == "nam_full" else 2)
    for value, (x, y) in zip(values, pairs, strict=True):
        assert value.shape == x.shape
        # Nearer to 0 the quotient loses its digits.
        where = np.abs(x) > 1e-2
        np.testing.assert_allclose(value.numpy()[where], (y / x).numpy()[where], atol=2e-5)


def test_distribution_by_hand():
    """Two channels, w = 1/2: one at 0.5, the other at 0.6 in one image and 0.8 in the next."""
    images = keras.Input((2, 3, 2))
    model = keras.Model(images, keras_nam.NAMChannelAttention(epsilon=0.0)(images))
    values = np.full((2, 2, 3, 2), 0.5)
    values[0, ..., 1], values[1, ..., 1] = 0.6, 0.8
    x = (2 * np.log(values / (1 - values))).astype("float32")
    stream = tf.data.Dataset.from_tensor_slices((x, [0, 0])).batch(1)
    (found,) = gate_values.distributions(model, stream).values()
    assert found.unit_means == pytest.approx([0.5, 0.7], abs=1e-6)
    numbers = found.numbers
    expected = {
        "mean": 0.6,
        "std_between_units": 0.1,
        "std_within_units": 0.05,
        "std": np.sqrt(0.1**2 + 0.1**2 / 2),
        "min": 0.5,
        "max": 0.8,
        "share_near_half": 0.5,
    }
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_distributions_equal_numpy_over_all_batches():
    model = network("nam_full", width=18)  # no quantile lies between two channels
    stream = tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(len(IMAGES)))).batch(5)
    found = gate_values.distributions(model, stream)
    named = gate_values.named_gates(model)
    assert list(found) == list(named)
    values = gate_values.value_function(model)(IMAGES)
    for (name, distribution), value in zip(found.items(), values, strict=True):
        numbers, value = distribution.numbers, value.numpy().astype("float64")
        axes = (0, 3) if gate_values.units(named[name]) == "positions" else (0, 1, 2)
        assert numbers["mean"] == pytest.approx(value.mean(), abs=1e-6)
        assert numbers["std"] == pytest.approx(value.std(), rel=1e-4)
        assert numbers["std_between_units"] == pytest.approx(value.mean(axes).std(), rel=1e-4)
        assert numbers["std_within_units"] == pytest.approx(value.std(axes).mean(), rel=1e-4)
        near = np.abs(value - 0.5) <= 1e-3
        assert numbers["share_near_half"] == pytest.approx(near.mean(), abs=1e-4)
        ends = (value.min(), value.max())
        assert (numbers["min"], numbers["max"]) == pytest.approx(ends, abs=1e-6)
        deviations = np.array(list(numbers["quantiles"].values())) - 0.5
        shares = list(map(float, numbers["quantiles"]))
        np.testing.assert_allclose(
            deviations, np.quantile(value, shares) - 0.5, rtol=0.03, atol=2e-6
        )


def test_values_follow_the_weights():
    model = network()
    values = tf.function(gate_values.value_function(model))
    before = values(IMAGES)[0].numpy()
    gates_of(model)[0].gamma.assign(np.zeros(16))
    assert np.ptp(before) > 0.1
    np.testing.assert_array_equal(values(IMAGES)[0], np.full(before.shape, 0.5))
