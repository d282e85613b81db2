"""Squeeze-and-excitation."""

import keras

from keras_nam.attention.base import ImageAttention, TorchModule


@keras.saving.register_keras_serializable(package="keras_nam")
class SqueezeExcite(ImageAttention):
    """Squeeze-and-excitation: each channel weighed by a network of all the channels' means.

    `y = x * sigmoid(W2 relu(W1 mean(x) + b1) + b2)`

    Args:
        reduction: Integer, the hidden units are `channels // reduction`, at least 1.
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

    - [Hu et al., 2018](https://arxiv.org/abs/1709.01507)
    """

    any_rank = True
    torch_module = TorchModule("se", {"fc1": "fc.0", "fc2": "fc.2"})

    def __init__(self, reduction=16, data_format=None, **kwargs):
        super().__init__(data_format=data_format, **kwargs)
        self.reduction = reduction

    def build_gates(self, channels):
        hidden = max(1, channels // self.reduction)
        self.fc1 = keras.layers.Dense(hidden, "relu", dtype=self.dtype_policy, name="fc1")
        self.fc2 = keras.layers.Dense(channels, "sigmoid", dtype=self.dtype_policy, name="fc2")
        self.fc1.build((None, channels))
        self.fc2.build((None, hidden))

    def call(self, inputs):
        weights = self.fc2(self.fc1(self.mean_over_positions(inputs)))
        return inputs * self.over_positions(weights)

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction}
