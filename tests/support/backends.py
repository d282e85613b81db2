"""A training step, arrays and skips for each backend of Keras."""

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
VERSION = tuple(int(part) for part in keras.__version__.split(".")[:2])

tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="for the TensorFlow backend only"
)


def arrays(outputs):
    """Returns the NumPy arrays of a structure of tensors."""
    return [keras.ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(outputs)]


def training_step(layer, x, upstream=1.0):
    """Calls a layer in training, which moves its statistics.

    Args:
        layer: Built `keras.Layer`.
        x: Array, the inputs.
        upstream: Array, the gradient with respect to the outputs.

    Returns:
        The outputs, and the gradients with respect to x and to each trainable variable, as a list.
    """
    return arrays(_STEPS[BACKEND](layer, x, upstream))


def _tensorflow(layer, x, upstream):
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * upstream)
    return [outputs, *tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])]


def _jax(layer, x, upstream):
    import jax

    before = [v.value for v in layer.non_trainable_variables]
    options = {"training": True} if layer._call_has_training_arg else {}

    def loss(x, trainable):
        outputs, after = layer.stateless_call(trainable, before, x, **options)
        return (outputs.astype("float32") * upstream).sum(), (outputs, after)

    trainable = [v.value for v in layer.trainable_variables]
    gradients, (outputs, after) = jax.grad(loss, (0, 1), has_aux=True)(np.asarray(x), trainable)
    for variable, value in zip(layer.non_trainable_variables, after, strict=True):
        variable.assign(value)
    return [outputs, *gradients]


def _torch(layer, x, upstream):
    import torch

    x = torch.tensor(x, requires_grad=True)
    outputs = layer(x, training=True)
    loss = (outputs.float() * torch.as_tensor(upstream)).sum()
    return [outputs, *torch.autograd.grad(loss, [x, *(v.value for v in layer.trainable_variables)])]


_STEPS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
