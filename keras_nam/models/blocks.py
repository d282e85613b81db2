"""Layers that the backbones share, with PyTorch's padding and normalization."""

from keras import layers

from keras_nam.attention.base import channel_axis
from keras_nam.normalization import BatchNormalization


def pad(x, size, name):
    """Pads by `size` on every side, as PyTorch and Paddle do."""
    return layers.ZeroPadding2D(size, name=f"{name}_pad")(x)


def _padded(x, kernel_size, strides, name):
    """Returns x padded by half the kernel on every side, and the `padding` for its convolution."""
    # Without strides, TensorFlow's SAME is the same. With them, it pads less before than after.
    if strides > 1 and kernel_size > 1:
        return pad(x, kernel_size // 2, name), "valid"
    return x, "same"


def conv(x, filters, kernel_size, strides=1, *, name, use_bias=False):
    """A convolution padded by half its kernel on every side."""
    x, padding = _padded(x, kernel_size, strides, name)
    options = {"use_bias": use_bias, "kernel_initializer": "he_uniform", "name": name}
    return layers.Conv2D(filters, kernel_size, strides, padding, **options)(x)


def depthwise_conv(x, kernel_size, strides=1, *, name):
    """A convolution of each channel with a bias, padded by half its kernel on every side."""
    x, padding = _padded(x, kernel_size, strides, name)
    options = {"depthwise_initializer": "he_uniform", "name": name}
    return layers.DepthwiseConv2D(kernel_size, strides, padding, **options)(x)


def normalization(x, *, name):
    """A batch normalization with PyTorch's epsilon and momentum (0.1, which Keras calls 0.9)."""
    return BatchNormalization(axis=channel_axis(), momentum=0.9, epsilon=1e-5, name=name)(x)


def channels_of(x):
    """Returns the number of channels of a tensor of images."""
    return x.shape[channel_axis()]
