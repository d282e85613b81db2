"""The values that a network's NAM gates take, `sigmoid(w * BN(x))`, and how they are spread."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nam.attention.nam import NAMSpatialAttention
from keras_nam.attention.normalization_gate import NormalizationGate

NEAR = 1e-3  # half the width of the band around 0.5
# The histograms' bins are equal in asinh((value - 0.5) / FINEST): a layer's values may lie as near
# 0.5 as 1/C, and a few of them near 0 or 1.
BINS = 4096
FINEST = 1e-6


def gates(model):
    """Returns the normalization gates of a model or layer, nested ones included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, NormalizationGate)]


def named_gates(model):
    """Returns name -> gate, in their order; the names are those that `keras_nam.fold` gives."""
    named = {}
    for layer in _gated_layers(model):
        inner = gates(layer)
        for gate in inner:
            named[layer.name if len(inner) == 1 else f"{layer.name}_{gate.name}"] = gate
    return named


def short_name(name):
    """Returns a gate's name as tables and pictures have room for: `s1b2_nam`."""
    return name.replace("stage", "s").replace("_block", "b")


def units(gate):
    """Returns what a gate has a gamma for each of: `"channels"` or `"positions"`."""
    return "positions" if isinstance(gate, NAMSpatialAttention) else "channels"


def value_function(model):
    """Returns a function from images to the values of each gate, for the weights of that time.

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


def _gated_layers(model):
    return [layer for layer in model.layers if gates(layer)]


def _values(gate, x):
    weights = gate.gate_weights
    scale = gate.gamma * weights / ops.sqrt(gate.moving_variance + gate.epsilon)
    offset = gate.beta * weights - scale * gate.moving_mean
    axes = _unit_axes(gate)
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    return ops.sigmoid(x * ops.reshape(scale, shape) + ops.reshape(offset, shape))


def _unit_axes(gate):
    """Returns the axes, of four, that number a gate's gammas."""
    if units(gate) == "channels":
        return (gate.axis % 4,)
    return (1, 2) if gate.data_format == "channels_last" else (2, 3)


def over_positions(gate, value):
    """Returns a gate's values as an array of maps [N, h, w]: their means over the channels."""
    channels_first = (gate.axis % 4 == 1) or getattr(gate, "data_format", None) == "channels_first"
    return np.asarray(value).mean(1 if channels_first else -1)


@dataclasses.dataclass
class Distribution:
    """How a gate's values are spread. A unit is what has a gamma: a channel, or a position.

    Attributes:
        count: Integer, the values of a unit.
        unit_means: Float64 [units].
        unit_variances: Float64 [units], biased.
        low, high: The least and the greatest value.
        near_half: Share of the values within 0.5 ± `NEAR`.
        counts: Integers [BINS], the values between each two of `edges()`.
    """

    count: int
    unit_means: np.ndarray
    unit_variances: np.ndarray
    low: float
    high: float
    near_half: float
    counts: np.ndarray

    @property
    def mean(self):
        """Over images, positions and channels."""
        return float(self.unit_means.mean())

    @property
    def std_between(self):
        """Standard deviation of the units' means: what a constant for each unit has too."""
        return float(self.unit_means.std())

    @property
    def std_within(self):
        """Mean over the units of the standard deviation within each: what the inputs change."""
        return float(np.sqrt(self.unit_variances).mean())

    @property
    def std(self):
        """Over images, positions and channels."""
        return float(np.sqrt(self.unit_means.var() + self.unit_variances.mean()))

    @property
    def share_between(self):
        """Share of the variance that lies between the units' means; 0 without any variance."""
        return float(self.unit_means.var() / self.std**2) if self.std else 0.0

    def quantiles(self, shares):
        """Returns the values below which the shares (0–1) lie, to 1% of their distance from 0.5."""
        below = np.concatenate([[0], np.cumsum(self.counts)]) / self.counts.sum()
        return np.clip(np.interp(shares, below, edges()), self.low, self.high)

    def histogram(self, bins=64):
        """Returns (counts [bins], edges [bins + 1])."""
        return self.counts.reshape(bins, -1).sum(1), edges()[:: BINS // bins]


def edges():
    """Returns the edges of the histograms' bins, [BINS + 1] from 0 to 1."""
    return 0.5 + FINEST * np.sinh(np.linspace(*_bin_range(), BINS + 1))


def _bin_range():
    end = float(np.arcsinh(0.5 / FINEST))
    return -end, end


def distributions(model, stream):
    """Measures each gate's values over a stream, of which no more than a batch is held.

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

    batches = [[] for _ in named]
    for images, _ in stream:
        for found, batch in zip(batches, sums(images), strict=True):
            found.append(_to_numpy(batch))
    return {name: _distribution(found) for name, found in zip(named, batches, strict=True)}


def distribution(gate, value):
    """Returns the `Distribution` of one batch of a gate's values."""
    return _distribution([_to_numpy(_sums(gate, value))])


def _to_numpy(sums):
    return {key: tensor.numpy() for key, tensor in sums.items()}


def _sums(gate, value):
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
        "counts": tf.histogram_fixed_width(tf.math.asinh(centred / FINEST), _bin_range(), BINS),
    }


def _distribution(batches):
    def total(key):
        return np.sum([batch[key] for batch in batches], axis=0, dtype="float64")

    count = total("count")
    means = total("totals") / count
    counts = total("counts").astype(int)
    return Distribution(
        count=int(count),
        unit_means=means + 0.5,
        unit_variances=np.maximum(total("squares") / count - means**2, 0),
        low=float(min(batch["low"] for batch in batches)),
        high=float(max(batch["high"] for batch in batches)),
        near_half=float(total("near") / counts.sum()),
        counts=counts,
    )
