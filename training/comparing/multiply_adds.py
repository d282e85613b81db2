"""What a network costs, counted on its graph."""

import functools

import numpy as np
import tensorflow as tf

import keras_nam


@functools.cache
def multiply_adds(arch, stem, classes, size):
    """Returns the multiply-adds of an arch's convolutions and dense layers for one image.

    They are counted on the graph of a call, so that layers within layers count as well. A
    convolution has one for each number of its kernel and position of its output. What works
    element by element (normalizations, gates, activations, sums) is not counted.
    """
    model = keras_nam.create_model(arch, classes, (*size, 3), stem)
    images = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(images).graph
    return sum(
        COUNTED[operation.type](*operation.inputs, operation.outputs[0])
        for operation in graph.get_operations()
        if operation.type in COUNTED
    )


def _size(tensor):
    return int(np.prod(tensor.shape.as_list()))


def _convolution(images, kernel, output):
    return _size(kernel) * _size(output) // kernel.shape[-1]


def _depthwise(images, kernel, output):
    return _size(output) * kernel.shape[0] * kernel.shape[1]


def _product(left, right, output):
    return _size(left) * _size(right) // left.shape[-1]


COUNTED = {"Conv2D": _convolution, "DepthwiseConv2dNative": _depthwise, "MatMul": _product}
