"""The values of a network's NAM gates, `sigmoid(w * BN(x))`, and their distributions.

Images and features are [N, H, W, C], as in the networks that `training/train.py` trains.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_nam.attention.nam import NAMSpatialAttention
from keras_nam.gates import gates_of, recorded_calls

NEAR = 1e-3  # half the width of the band around 0.5
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
# The quantiles' bins are equal in asinh((value - 0.5) / FINEST): most values of a layer may be
# within 1/C of 0.5, and a few near 0 or 1.
BINS = 4096
FINEST = 1e-6
END = float(np.arcsinh(0.5 / FINEST))
EDGES = 0.5 + FINEST * np.sinh(np.linspace(-END, END, BINS + 1))


def named_gates(model):
    """Returns name -> gate, in the network's order and under `keras_nam.fold`'s names."""
    named = {}
    for layer in model.layers:
        inner = gates_of(layer)
        for gate in inner:
            named[layer.name if len(inner) == 1 else f"{layer.name}_{gate.name}"] = gate
    return named


def display_name(name):
    """Returns a gate's name for tables and pictures, such as `stage 1 block 2`."""
    for part, words in (
        ("stage", "stage "),
        ("_block", " block "),
        ("_nam_full", ""),
        ("_nam", ""),
    ):
        name = name.replace(part, words)
    return name.replace("_", " ")


def units(gate):
    """Returns what has a gamma each in a gate: `"channels"` or `"positions"`."""
    return "positions" if isinstance(gate, NAMSpatialAttention) else "channels"


def value_function(model):
    """Returns a function of normalized images [N, H, W, 3], with the model's current weights.

    It returns a float32 tensor [N, h, w, C] for each gate, in the order of `named_gates`.
    """
    named = named_gates(model)

    def values(images):
        found = dict(recorded_calls(model, images))
        return [found[gate] for gate in named.values()]

    return values


class Distribution(NamedTuple):
    """The distribution of a gate's values; a unit is a channel or a position."""

    unit_means: np.ndarray  # float64 [units]
    numbers: dict  # as in gates.json; quantiles to 1% of their distance from 0.5


def distributions(model, stream):
    """Returns name -> `Distribution` over a finite stream of (normalized images, labels)."""
    named = named_gates(model)
    values = value_function(model)

    @tf.function(reduce_retracing=True)
    def sums(images):
        return [
            _sums(gate, value) for gate, value in zip(named.values(), values(images), strict=True)
        ]

    batches = [sums(images) for images, _ in stream]
    return dict(zip(named, map(_distribution, zip(*batches, strict=True)), strict=True))


def distribution(gate, value):
    """Returns the `Distribution` of one batch of a gate's values."""
    return _distribution([_sums(gate, value)])


def _sums(gate, value):
    """Returns the sums of a batch; `count` is the number of values of a unit."""
    reduced = (0, 1, 2) if units(gate) == "channels" else (0, 3)
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


def _distribution(batches):
    """Returns the distribution of a gate's `_sums` of each batch."""
    of = {key: np.array([batch[key].numpy() for batch in batches]) for key in batches[0]}
    total = {key: values.sum(0, dtype="float64") for key, values in of.items()}
    deviations = total["totals"] / total["count"]
    variances = np.maximum(total["squares"] / total["count"] - deviations**2, 0)
    means = deviations + 0.5
    low, high = float(of["low"].min()), float(of["high"].max())
    counts = total["counts"].astype(int)
    below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    quantiles = np.interp(QUANTILES, below, EDGES).clip(low, high).tolist()
    numbers = {
        "mean": float(means.mean()),
        "std": float(np.sqrt(means.var() + variances.mean())),
        "std_between_units": float(means.std()),
        "std_within_units": float(np.sqrt(variances).mean()),
        "min": low,
        "max": high,
        "share_near_half": float(total["near"] / counts.sum()),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
    }
    return Distribution(means, numbers)
