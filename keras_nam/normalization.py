"""Batch normalization: Keras' layer, fused on the TensorFlow backend."""

import keras
from keras import ops

from keras_nam import derived_gate

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def _fused_batch_norm(inputs, scale, offset, mean, variance, epsilon, training):
    """Normalizes `inputs` [N, H, W, C] in one operation.

    Returns the outputs, mean and biased variance: the batch's if `training`, else the given ones.
    """
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=offset,
        # In training the operation asks for empty statistics, unless it averages them itself.
        mean=mean[:0] if training else mean,
        variance=variance[:0] if training else variance,
        epsilon=epsilon,
        is_training=training,
    )
    if training:
        # The operation gives the unbiased estimate, n/(n-1); Keras' moving variance is biased.
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), variance.dtype)
        variance *= (count - 1) / count
    return outputs, mean, variance


@keras.saving.register_keras_serializable(package="keras_nam")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' `BatchNormalization` with the fused operation where TensorFlow has one.

    `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`

    On the TensorFlow backend, for inputs of rank 4 whose last axis is normalized, without a mask,
    renormalization or synchronization, the layer runs TensorFlow's fused operation. Elsewhere it
    runs Keras' own code. Weights, serialization and numbers are the same: the moving variance is
    the biased estimate, and the statistics are float32 under mixed precision. On TensorFlow its
    second derivatives are exact, where `keras.layers.BatchNormalization` stops the gradient at the
    batch mean.

    Args:
        **kwargs: Arguments of `keras.layers.BatchNormalization`.

    Reference:

    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167).
    """

    renorm = False  # Keras below 3.14 has no such attribute

    def call(self, inputs, training=None, mask=None):
        if mask is not None or not self._is_fusable(inputs):
            return super().call(inputs, training=training, mask=mask)
        return self._normalize(inputs, self.gamma, self.beta, training)

    def _is_fusable(self, inputs):
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and not (self.renorm or self.synchronized)
            and keras.backend.standardize_dtype(inputs.dtype) in ("float16", "bfloat16", "float32")
        )

    def _normalize(self, inputs, gamma, beta, training):
        """Normalizes with the given scale and offset; `None` is 1 or 0. Moves the statistics."""
        training = bool(training and self.trainable)
        mean, variance = (
            ops.cast(moving, keras.backend.result_type(inputs.dtype, "float32"))
            for moving in (self.moving_mean, self.moving_variance)
        )
        gamma = ops.ones_like(mean) if gamma is None else ops.cast(gamma, mean.dtype)
        beta = ops.zeros_like(mean) if beta is None else ops.cast(beta, mean.dtype)
        if self._is_fusable(inputs):
            outputs, mean, variance = _fused_batch_norm(
                inputs, gamma, beta, mean, variance, self.epsilon, training
            )
            if training:
                derived_gate.remember(outputs, inputs, gamma, beta, mean, variance, self.epsilon)
        else:
            if training:
                mean, variance = self._moments(inputs, mask=None)
            outputs = ops.batch_normalization(
                inputs, mean, variance, self.axis, beta, gamma, self.epsilon
            )
        if training:
            self._move_statistics(mean, variance)
        return outputs

    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        if keras.backend.backend() == "tensorflow" and mask is None and not self.synchronized:
            # TensorFlow's variance stops the gradient at the mean, so its second derivatives are
            # wrong. mean((x - c)²) - (mean(x) - c)² is the variance for every constant c.
            variance -= ops.square(mean - ops.stop_gradient(mean))
        return mean, variance

    def _move_statistics(self, mean, variance):
        """Moves the moving statistics towards the batch's."""
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = ops.cast(moving, batch.dtype)  # a half type under a half policy
            moved = old * self.momentum + batch * (1.0 - self.momentum)
            moving.assign(ops.cast(moved, moving.dtype))
