"""Efficient channel attention."""

import math

import keras
from keras import ops

from keras_nam.attention.base import ImageAttention, TorchModule


def adaptive_kernel_size(channels, gamma=2, b=1):
    """Returns the paper's equation 12: the odd size near `(log2(channels) + b) / gamma`."""
    size = int(abs((math.log2(channels) + b) / gamma))
    return size if size % 2 else size + 1


@keras.saving.register_keras_serializable(package="keras_nam")
class ECA(ImageAttention):
    """Efficient channel attention: each channel weighed by the means of its neighbours.

    `y = x * sigmoid(conv1d(mean(x)))`, the convolution running over the channels.

    Args:
        kernel_size: Odd integer, or `None` for the size that the paper derives from the number
            of channels.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras' setting.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).

    Call arguments:
        inputs: Tensor of shape [N, ..., C], or [N, C, ...] for `"channels_first"`: images, or any
            other rank from 2 on.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: If the number of channels is not defined.

    Reference:

    - [Wang et al., 2020](https://arxiv.org/abs/1910.03151)
    """

    any_rank = True
    torch_module = TorchModule("eca", {"conv": "conv"})

    def __init__(self, kernel_size=None, data_format=None, **kwargs):
        super().__init__(data_format=data_format, **kwargs)
        self.kernel_size = kernel_size

    def build_gates(self, channels):
        self.conv = keras.layers.Conv1D(
            filters=1,
            kernel_size=self.kernel_size or adaptive_kernel_size(channels),
            padding="same",
            data_format="channels_last",
            activation="sigmoid",
            use_bias=False,
            dtype=self.dtype_policy,
            name="conv",
        )
        self.conv.build((None, channels, 1))

    def call(self, inputs):
        means = ops.expand_dims(self.mean_over_positions(inputs), axis=-1)
        weights = ops.squeeze(self.conv(means), axis=-1)
        return inputs * self.over_positions(weights)

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}
