"""The gate in training where the inputs' batch statistics are known: no pass to find them.

A gate stands after a batch normalization, `x = gamma * (u - mean(u)) / sqrt(var(u) + eps) + beta`.
Over the same batch its outputs have the mean `beta` and the variance
`gamma² * var(u) / (var(u) + eps)`, so the gate's own normalization is `z = a * x + b` with

    a = scale / sqrt(variance + epsilon),  b = offset - a * mean

and the step is elementwise, but for the normalization's own gradient (TensorFlow's fused
operation). Between the passes only `x` is kept. On a GPU that operation wants other statistics,
and XLA compiles the whole step: the gate is Keras' operations there.
"""

import functools

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def remember_moments(outputs, mean, variance):
    """Leaves the batch's mean and biased variance of a tensor with it, as Keras does masks."""
    outputs._batch_moments = (tf.stop_gradient(mean), tf.stop_gradient(variance))


def known_moments(x):
    """Returns (mean, variance) over the batch if `x` is as a normalization left it, or `None`."""
    moments = getattr(x, "_batch_moments", None)
    return None if moments is None or _gpus() else moments


@functools.cache
def _gpus():
    return tf.config.list_physical_devices("GPU")


def gate(x, scale, offset, mean, variance, epsilon):
    """Returns `x * sigmoid(BN(x; scale, offset))` for a batch of known statistics.

    Args:
        x: Float32 tensor [N, H, W, C].
        scale, offset: Those of the normalization, [C]; the offset may be `None`, for 0.
        mean, variance: Those of `x` over the batch, [C], the variance biased.
        epsilon: Float, added to the variance.
    """

    @tf.custom_gradient
    def gated(x, scale, offset):
        a = scale * tf.math.rsqrt(variance + epsilon)
        b = offset - a * mean

        def gradient(dy):
            through_x, dscale, doffset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=_elementwise()["dz"](x, a, b, dy),
                x=x,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=True,
            )
            return _elementwise()["dx"](x, a, b, dy, through_x), dscale, doffset

        return _elementwise()["y"](x, a, b), gradient

    return gated(x, scale, tf.zeros_like(scale) if offset is None else offset)


@functools.cache
def _elementwise():
    """Returns the passes over all values, each compiled to one loop."""

    def y(x, a, b):
        return x * tf.sigmoid(a * x + b)

    def dz(x, a, b, dy):
        s = tf.sigmoid(a * x + b)
        return dy * x * s * (1 - s)

    def dx(x, a, b, dy, through_z):
        return dy * tf.sigmoid(a * x + b) + through_z

    return {f.__name__: tf.function(f, jit_compile=True) for f in (y, dz, dx)}
