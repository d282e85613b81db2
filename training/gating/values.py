"""The values that a network's NAM gates take, `sigmoid(w * BN(x))`, and their distributions."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nam.attention.nam import NAMSpatialAttention
from keras_nam.attention.normalization_gate import NormalizationGate

NEAR = 1e-3  # half the width of the band around 0.5
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
# The histograms' bins are equal in asinh((value - 0.5) / FINEST): a layer's values may lie as near
# 0.5 as 1/C, and a few of them near 0 or 1.
BINS = 4096
SHOWN_BINS = 64
FINEST = 1e-6
END = float(np.arcsinh(0.5 / FINEST))
EDGES = 0.5 + FINEST * np.sinh(np.linspace(-END, END, BINS + 1))


def gates(model):
    """Returns the normalization gates of a model or layer, nested ones included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, NormalizationGate)]


def named_gates(model):
    """Returns name -> gate, in the network's order and under `keras_nam.fold`'s names."""
    named = {}
    for layer in _gated_layers(model):
        inner = gates(layer)
        for gate in inner:
            named[layer.name if len(inner) == 1 else f"{layer.name}_{gate.name}"] = gate
    return named


def _gated_layers(model):
    return [layer for layer in model.layers if gates(layer)]


def short_name(name):
    """Returns a gate's name as tables and pictures have room for: `s1b2_nam`."""
    return name.replace("stage", "s").replace("_block", "b")


def units(gate):
    """Returns what a gate has a gamma for each of: `"channels"` or `"positions"`."""
    return "positions" if isinstance(gate, NAMSpatialAttention) else "channels"


def _unit_axes(gate):
    """Returns the axes, of four, that number a gate's gammas."""
    if units(gate) == "channels":
        return (gate.axis % 4,)
    return (1, 2) if gate.data_format == "channels_last" else (2, 3)


def value_function(model):
    """Returns a function from images to the values of each gate, with the current weights.

    Args:
        model: A functional `keras.Model`; it is used in inference mode and not changed.

    Returns:
        A function `images [N, H, W, 3] -> list of float32 tensors`, each of its gate's inputs'
        shape, in the order of `named_gates`.
    """
    layers = _gated_layers(model)
    features = keras.Model(model.input, [layer.input for layer in layers], name="gate_inputs")

    def values(images):
        found = []
        inputs = keras.tree.flatten(features(images, training=False))
        for layer, x in zip(layers, inputs, strict=True):
            x = ops.cast(x, "float32")
            for gate in gates(layer):
                found.append(_values(gate, x))
                x = x * found[-1]
        return found

    return values


def _values(gate, x):
    weights = gate.gate_weights
    scale = gate.gamma * weights / ops.sqrt(gate.moving_variance + gate.epsilon)
    offset = gate.beta * weights - scale * gate.moving_mean
    axes = _unit_axes(gate)
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    return ops.sigmoid(x * ops.reshape(scale, shape) + ops.reshape(offset, shape))


def over_positions(gate, value):
    """Returns a gate's values as an array of maps [N, h, w]: their means over the channels."""
    channels_first = (gate.axis % 4 == 1) or getattr(gate, "data_format", None) == "channels_first"
    return np.asarray(value).mean(1 if channels_first else -1)


class Distribution(NamedTuple):
    """The distribution of a gate's values. A unit is a channel, or a position, with its gamma.

    Attributes:
        unit_means: Float64 [units], over images and the other axes.
        numbers: Dictionary, as `gates.json` has it: mean, standard deviations (between the units'
            means, which constants would have too; within a unit, which the input causes), range,
            share within 0.5 ± `NEAR`, quantiles (to 1% of their distance from 0.5), histogram.
    """

    unit_means: np.ndarray
    numbers: dict

    @classmethod
    def of(cls, batches):
        """Returns the distribution of a list of `_sums`."""

        def total(key):
            return np.sum([batch[key] for batch in batches], axis=0, dtype="float64")

        count = total("count")
        deviations = total("totals") / count
        variances = np.maximum(total("squares") / count - deviations**2, 0)
        means = deviations + 0.5
        std = np.sqrt(means.var() + variances.mean())
        low = float(min(batch["low"] for batch in batches))
        high = float(max(batch["high"] for batch in batches))
        counts = total("counts").astype(int)
        below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
        quantiles = np.clip(np.interp(QUANTILES, below, EDGES), low, high).tolist()
        numbers = {
            "mean": float(means.mean()),
            "std": float(std),
            "std_between_units": float(means.std()),
            "std_within_units": float(np.sqrt(variances).mean()),
            "share_of_variance_between_units": float(means.var() / std**2) if std else 0.0,
            "min": low,
            "max": high,
            "share_near_half": float(total("near") / counts.sum()),
            "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
            "histogram": {
                "counts": counts.reshape(SHOWN_BINS, -1).sum(1).tolist(),
                "edges": EDGES[:: BINS // SHOWN_BINS].tolist(),
            },
        }
        return cls(means, numbers)


def distributions(model, stream):
    """Measures the distribution of each gate over a stream, of which it holds one batch at a time.

    Args:
        model: A functional `keras.Model`.
        stream: A finite `tf.data.Dataset` of (normalized images, labels).

    Returns:
        Dictionary name -> `Distribution`, as `named_gates`.
    """
    named = named_gates(model)
    values = value_function(model)

    @tf.function(reduce_retracing=True)
    def sums(images):
        return [
            _sums(gate, value) for gate, value in zip(named.values(), values(images), strict=True)
        ]

    batches = [tf.nest.map_structure(np.asarray, sums(images)) for images, _ in stream]
    return {
        name: Distribution.of([batch[number] for batch in batches])
        for number, name in enumerate(named)
    }


def distribution(gate, value):
    """Returns the `Distribution` of one batch of a gate's values."""
    return Distribution.of([tf.nest.map_structure(np.asarray, _sums(gate, value))])


def _sums(gate, value):
    """Returns the sums of a batch; `count` is the number of values of a unit."""
    reduced = [axis for axis in range(4) if axis not in _unit_axes(gate)]
    # Around 0.5, where the values are, a square keeps its digits in float32.
    centred = value - 0.5
    totals = tf.reduce_sum(centred, reduced)
    return {
        "count": tf.size(value) // tf.size(totals),
        "totals": tf.reshape(totals, [-1]),
        "squares": tf.reshape(tf.reduce_sum(centred**2, reduced), [-1]),
        "low": tf.reduce_min(value),
        "high": tf.reduce_max(value),
        "near": tf.math.count_nonzero(tf.abs(centred) <= NEAR),
        "counts": tf.histogram_fixed_width(tf.math.asinh(centred / FINEST), (-END, END), BINS),
    }
