"""The gate in training where the inputs' batch statistics are known, without a pass for them.

A gate stands after a batch normalization, `x = beta + gamma * (u - mean(u)) / sqrt(var(u) + eps)`.
Over the same batch its outputs have the mean `beta` and the variance
`gamma² * var(u) / (var(u) + eps)`, so the gate's own normalization is `z = a * x + b` with

    a = scale / sqrt(variance + epsilon),  b = offset - a * mean

and the gate's output, `y = x * s` with `s = sigmoid(z)`, is elementwise. So is its gradient, except
for two sums of `dz = dy * x * s * (1 - s)`, which come from z's normalization:

    doffset = sum(dz),  dscale = sum(dz * (x - mean)) / sqrt(variance + epsilon)
    dx = dy * s + a * (dz - doffset / n - (x - mean) / sqrt(variance + epsilon) * dscale / n)

The gradient recomputes `x` from `u`, which the normalization before keeps, instead of storing it.
TensorFlow's operation for a normalization's gradient computes the sums, faster than XLA does.
Higher derivatives come from plain operations. On a GPU, where XLA compiles the whole step, and in
forward mode, Keras' operations compute the gate.
"""

import functools
from typing import NamedTuple

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.eager import forwardprop_util


class Normalized(NamedTuple):
    """The statistics of a normalized batch, `x = mean + scale * (inputs - center)`.

    Attributes:
        inputs: Tensor [N, H, W, C].
        center, scale: [C].
        mean, variance: Mean and biased variance of x over the batch, [C].
    """

    inputs: object
    center: object
    scale: object
    mean: object
    variance: object


def remember(outputs, inputs, gamma, beta, mean, variance, epsilon):
    """Sets a `Normalized` on a normalization's outputs, as Keras sets masks.

    Args:
        outputs, inputs: Tensors [N, H, W, C].
        gamma, beta: Scale and offset, [C].
        mean, variance: Mean and biased variance of the inputs over the batch, [C].
        epsilon: Float, added to the variance.
    """
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    known = Normalized(inputs, mean, scale, beta, scale**2 * variance)
    outputs._normalized = Normalized(*map(tf.stop_gradient, known))


def recall(x, scale, offset):
    """Returns the `Normalized` of a normalization's output x, or `None` if `gate` cannot use it."""
    known = getattr(x, "_normalized", None)  # on the TensorFlow backend only
    return None if known is None or _gpus() or _has_tangents(x, scale, offset) else known


@functools.cache
def _gpus():
    return tf.config.list_physical_devices("GPU")


def _has_tangents(*tensors):
    """Whether a `tf.autodiff.ForwardAccumulator` follows any of the tensors.

    In a graph, forward mode ignores a `tf.custom_gradient` and differentiates its operations.
    """
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def gate(x, scale, offset, known, epsilon):
    """Returns `x * sigmoid(BN(x; scale, offset))` for the outputs of another normalization.

    Args:
        x: Float32 tensor [N, H, W, C].
        scale, offset: Scale and offset of the gate's normalization, [C].
        known: `Normalized`, of x.
        epsilon: Float, added to the variance.
    """
    u, center, gain, mean, variance = known
    inverse = tf.math.rsqrt(variance + epsilon)
    a = scale * inverse
    affine = (center, gain, mean, a, offset - a * mean)

    @tf.custom_gradient
    def gated(x, scale, offset):
        def gradient(dy):
            inputs = x, scale, offset, dy
            return _gradient(*inputs, epsilon) if _has_tangents(*inputs) else backward(*inputs)

        return _elementwise()["y"](x, *affine[-2:]), gradient

    @tf.custom_gradient
    def backward(x, scale, offset, dy):
        def gradient(*upstream):
            return _second_gradient(x, scale, offset, dy, epsilon, upstream)

        dz = _elementwise()["dz"](u, *affine, dy)
        _, dcentered, doffset, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dz,
            x=u,
            scale=tf.ones_like(gain),
            reserve_space_1=center,
            reserve_space_2=tf.ones_like(gain),
            reserve_space_3=tf.zeros([0]),
            epsilon=0.0,
            is_training=False,  # the statistics are given
        )
        dscale = dcentered * gain * inverse
        count = tf.cast(tf.size(u) / tf.size(gain), u.dtype)
        shift, slope = (-a * total / count for total in (doffset, dscale * inverse))
        dx = _elementwise()["dx"](u, *affine, dy, shift, slope)
        return (dx, dscale, doffset), gradient

    return gated(x, scale, offset)


def _gradient(x, scale, offset, dy, epsilon):
    """Returns the gate's gradient by operations that TensorFlow can differentiate again."""
    # `tf.nn.moments` stops the gradient at the mean, which is right for the first order alone.
    centered = x - tf.reduce_mean(x, [0, 1, 2])
    variance = tf.reduce_mean(centered**2, [0, 1, 2])
    y = x * tf.sigmoid(scale * tf.math.rsqrt(variance + epsilon) * centered + offset)
    return tf.gradients(y, [x, scale, offset], dy)


def _second_gradient(x, scale, offset, dy, epsilon, upstream):
    inputs = x, scale, offset, dy
    return tf.gradients(_gradient(*inputs, epsilon), inputs, list(upstream))


if keras.backend.backend() == "tensorflow":  # `tf.gradients` is for graphs
    _gradient, _second_gradient = map(tf.function, (_gradient, _second_gradient))


@functools.cache
def _elementwise():
    """Returns the passes over all values, each compiled to one loop."""

    def y(x, a, b):
        return x * tf.sigmoid(a * x + b)

    def dz(u, center, gain, mean, a, b, dy):
        x = mean + gain * (u - center)
        s = tf.sigmoid(a * x + b)
        return dy * x * s * (1 - s)

    def dx(u, center, gain, mean, a, b, dy, shift, slope):
        x = mean + gain * (u - center)
        s = tf.sigmoid(a * x + b)
        return dy * s * (1 + a * x * (1 - s)) + shift + slope * (x - mean)

    return {f.__name__: tf.function(f, jit_compile=True) for f in (y, dz, dx)}
