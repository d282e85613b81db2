"""The pieces that the backbones share: PyTorch's padding, the networks' normalization."""

from keras import layers

from keras_nam.attention.base import channel_axis
from keras_nam.normalization import BatchNormalization


def pad(x, size, name):
    """Pads by `size` on every side, as PyTorch and Paddle do, where TensorFlow's SAME does not."""
    return layers.ZeroPadding2D(size, name=f"{name}_pad")(x)


def conv(x, filters, kernel_size, strides=1, *, name, use_bias=False):
    """A convolution padded by half its kernel on every side.

    Without strides that is TensorFlow's SAME; with them, SAME would pad less before than after.
    """
    if strides > 1 and kernel_size > 1:
        x = pad(x, kernel_size // 2, name)
        padding = "valid"
    else:
        padding = "same"
    return layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding,
        use_bias=use_bias,
        kernel_initializer="he_uniform",
        name=name,
    )(x)


def depthwise_conv(x, kernel_size, strides=1, *, name, use_bias=False):
    """The same padding for a convolution of each channel by itself."""
    if strides > 1:
        x = pad(x, kernel_size // 2, name)
    return layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding="valid" if strides > 1 else "same",
        use_bias=use_bias,
        depthwise_initializer="he_uniform",
        name=name,
    )(x)


def normalization(x, *, name):
    """A batch normalization with PyTorch's epsilon, and its momentum 0.1 in Keras' sense."""
    return BatchNormalization(axis=channel_axis(), momentum=0.9, epsilon=1e-5, name=name)(x)


def channels_of(x):
    """Returns the number of channels of a tensor of images."""
    return x.shape[channel_axis()]
