"""The floor of a training step: a network's convolutions and matrix products, and nothing else."""

from math import prod
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Product(NamedTuple):
    """A layer that multiplies by a kernel.

    Attributes:
        kind: Its class, a key of `PRODUCTS`.
        inputs: Shape of an image's inputs, [H, W, C] or [C].
        outputs: Shape of an image's outputs.
        kernel: Shape of the kernel.
        strides: Integer.
        padding: `"VALID"` or `"SAME"`.
        is_first: Whether its inputs are the images, which need no gradient.
    """

    kind: type
    inputs: tuple
    outputs: tuple
    kernel: tuple
    strides: int
    padding: str
    is_first: bool

    @property
    def flops(self):
        """Floating-point operations an image: forward, and backward for the kernel and inputs."""
        multiply_adds = prod(self.outputs[:-1]) * prod(self.kernel)
        return 2 * multiply_adds * (2 if self.is_first else 3)


# Kind of layer -> function (inputs, kernel, product) -> outputs. A DepthwiseConv2D is no Conv2D.
PRODUCTS = {
    layers.Conv2D: lambda x, kernel, its: tf.nn.conv2d(x, kernel, its.strides, its.padding),
    layers.DepthwiseConv2D: lambda x, kernel, its: tf.nn.depthwise_conv2d(
        x, kernel, [1, its.strides, its.strides, 1], its.padding
    ),
    layers.Dense: lambda x, kernel, its: tf.matmul(x, kernel),
}


def products(model):
    """Returns a list of `Product`, those of a Keras model's layers, in their order."""
    found = []
    for layer in model.layers:
        if type(layer) not in PRODUCTS:
            continue
        found.append(
            Product(
                kind=type(layer),
                inputs=layer.input.shape[1:],
                outputs=layer.output.shape[1:],
                kernel=tuple(layer.kernel.shape),
                strides=getattr(layer, "strides", (1,))[0],
                padding=getattr(layer, "padding", "valid").upper(),
                is_first=not found,
            )
        )
    return found


def step(products, batch_size):
    """Returns a function that makes each product and its gradients, one after the other.

    The kernels are variables, one for each product, and what comes back from the backward pass is
    the product itself: so no product is a constant, and none is the same as another. Inputs of one
    shape are one variable.

    Args:
        products: List of `Product`.
        batch_size: Integer.

    Returns:
        A function of no arguments that returns a number once all is done, and the dtype.
    """
    numbers = np.random.default_rng(0)
    dtype = keras.config.floatx()

    def variable(shape):
        return tf.Variable(numbers.normal(size=shape, scale=0.1), dtype=dtype)

    kernels = [variable(product.kernel) for product in products]
    shapes = {product.inputs for product in products}
    inputs = {shape: variable((batch_size, *shape)) for shape in shapes}

    @tf.function
    def floor():
        total = tf.zeros([], dtype)
        for product, kernel in zip(products, kernels, strict=True):
            # In a network each waits for the one before.
            with tf.control_dependencies([total]):
                results = _with_gradients(
                    product, inputs[product.inputs].read_value(), kernel.read_value()
                )
            # Of each a number, so that none is left out as unused.
            total += tf.add_n([tf.reshape(result, [-1])[0] for result in results])
        return total

    traced = floor.get_concrete_function()
    return lambda: float(traced()), dtype


def _with_gradients(product, x, kernel):
    """Returns the outputs and the gradients, for outputs in the place of their own gradient."""
    asked = [kernel] if product.is_first else [x, kernel]
    with tf.GradientTape() as tape:
        tape.watch(asked)
        outputs = PRODUCTS[product.kind](x, kernel, product)
    return [outputs, *tape.gradient(outputs, asked, output_gradients=outputs)]
