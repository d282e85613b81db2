"""NAM: attention whose weights are the scales of a batch normalization."""

import math

import keras
from keras import ops

from keras_nam.attention.base import TorchModule, channel_axis, check_shape, resolve_data_format
from keras_nam.attention.normalization_gate import NormalizationGate


@keras.saving.register_keras_serializable(package="keras_nam")
class NAMChannelAttention(NormalizationGate):
    """Channel attention by normalization.

    `y = gain * x * sigmoid(w * BN(x))`, `w = |gamma| / sum(|gamma|)`

    where `gamma` is the scale of the batch normalization. A channel that varies much has a large
    scale, and a large weight. The layer's parameters are the normalization's: two per channel.
    The gate is computed in float32 under every dtype policy.

    As `w` is about 1/C, the gate stays near 0.5: within a channel its standard deviation is about
    `|gamma| / 4C`. results/README.md reports the effect on training.

    Args:
        axis: Integer, the axis of the channels. Defaults to the axis of `data_format`.
        momentum: Momentum of the moving statistics. Defaults to 0.9.
        epsilon: Added to the variance. Defaults to 1e-5.
        gate_gradient: Whether the gradient flows through `w`, as in the Paddle port (the default),
            or stops there, as in the official PyTorch code.
        weighting: `"sum"`, the paper's, or an ablation: `"mean"`, `"max"`, `"unnormalized"`,
            `"uniform"`, `"constant"`; see `keras_nam.attention.weighting`.
        gain: Float, a factor of the outputs. With 2.0 a gate of 0.5 changes nothing; with 1.0, the
            paper's, it halves its inputs.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras' setting.
        **kwargs: Arguments of `BatchNormalization`. `gamma_regularizer=keras.regularizers.L1(s)`
            is the sparsity penalty of the paper's equation 4.

    Call arguments:
        inputs: Tensor of shape [N, ..., C], or [N, C, ...] for `axis=1`: images, or any other rank
            from 2 on.
        training: Whether the batch's own statistics are used, and the moving ones updated.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: If the number of channels is not defined.

    Reference:

    - [Liu et al., 2021, NAM: Normalization-based Attention Module](https://arxiv.org/abs/2111.12419)
    """

    torch_module = TorchModule("nam.Channel_Att", {"": "bn2"})

    def __init__(self, axis=None, data_format=None, **kwargs):
        super().__init__(axis=channel_axis(data_format) if axis is None else axis, **kwargs)

    def build(self, input_shape):
        check_shape(self, input_shape, self.axis, any_rank=True)
        super().build(input_shape)


@keras.saving.register_keras_serializable(package="keras_nam")
class NAMSpatialAttention(NormalizationGate):
    """Spatial attention by normalization: the channel attention's formula over H·W positions.

    `y = x * sigmoid(w * BN(x))`, `w = |gamma| / sum(|gamma|)`

    The normalization has a scale and an offset for each position. Its statistics are over the
    batch and the channels. The height and width of the inputs are fixed once it is built.

    Args:
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras' setting.
        **kwargs: Arguments of `NAMChannelAttention`, without `axis`.

    Call arguments:
        inputs: Tensor of shape [N, H, W, C], or [N, C, H, W] for `"channels_first"`.
        training: Whether the batch's own statistics are used, and the moving ones updated.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: If the inputs are not of rank 4, or any of H, W and C is not defined.

    Reference:

    - [Liu et al., 2021, NAM: Normalization-based Attention Module](https://arxiv.org/abs/2111.12419)
    """

    torch_module = TorchModule("nam.Spatial_Att", {"": "bn"})

    def __init__(self, data_format=None, **kwargs):
        super().__init__(axis=-1, **kwargs)
        self.data_format = resolve_data_format(data_format)
        self._channels = channel_axis(self.data_format)

    def build(self, input_shape):
        check_shape(self, input_shape, self._channels, positions=True)
        height, width = input_shape[1:3] if self._channels == -1 else input_shape[2:]
        self._size = height, width
        super().build((None, input_shape[self._channels], 1, height * width))
        self.input_spec = keras.InputSpec(shape=(None, *input_shape[1:]))

    def call(self, inputs, training=None):
        # The positions become the last axis, where the fused normalization works.
        x = ops.transpose(inputs, (0, 3, 1, 2)) if self._channels == -1 else inputs
        x = ops.reshape(x, (-1, inputs.shape[self._channels], 1, math.prod(self._size)))
        return self._restored(super().call(x, training=training))

    def _restored(self, x):
        x = ops.reshape(x, (-1, x.shape[1], *self._size))
        return ops.transpose(x, (0, 2, 3, 1)) if self._channels == -1 else x

    def get_config(self):
        config = super().get_config()
        del config["axis"]
        return {**config, "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_nam")
class NAM(keras.layers.Layer):
    """NAM: channel attention, then spatial attention, each optional.

    Args:
        channel: Whether there is a `NAMChannelAttention`.
        spatial: Whether there is a `NAMSpatialAttention`. The official code and its ports train
            without it.
        momentum, epsilon, gate_gradient, weighting, gain, data_format: As in
            `NAMChannelAttention`, for each of the two.
        gamma_regularizer: Regularizer of the gammas: `keras.regularizers.L1(s)` is equation 4.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).

    Call arguments:
        inputs: Tensor of shape [N, H, W, C], or [N, C, H, W] for `"channels_first"`; any rank from
            2 on without the spatial attention.
        training: Whether the batch's own statistics are used, and the moving ones updated.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: If neither is requested, or as the two layers raise it.

    Reference:

    - [Liu et al., 2021, NAM: Normalization-based Attention Module](https://arxiv.org/abs/2111.12419)
    """

    torch_module = TorchModule("nam", {"channel": "Channel_Att.bn2", "spatial": "Spatial_Att.bn"})

    def __init__(
        self,
        channel=True,
        spatial=False,
        momentum=0.9,
        epsilon=1e-5,
        gate_gradient=True,
        weighting="sum",
        gain=1.0,
        gamma_regularizer=None,
        data_format=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not (channel or spatial):
            raise ValueError(
                "NAM needs `channel=True`, `spatial=True` or both. "
                f"Received: channel={channel}, spatial={spatial}"
            )
        self.channel = channel
        self.spatial = spatial
        self.options = {
            "momentum": momentum,
            "epsilon": epsilon,
            "gate_gradient": gate_gradient,
            "weighting": weighting,
            "gain": gain,
            "gamma_regularizer": keras.regularizers.get(gamma_regularizer),
            "data_format": resolve_data_format(data_format),
        }
        options = {**self.options, "dtype": self.dtype_policy, "trainable": self.trainable}
        self.gates = {}
        if channel:
            self.gates["channel"] = NAMChannelAttention(**options, name="channel")
        if spatial:
            self.gates["spatial"] = NAMSpatialAttention(**options, name="spatial")

    @property
    def gate_weights(self):
        """Dictionary `"channel"`, `"spatial"` -> the weights `|gamma| / sum(|gamma|)` of each."""
        return {name: gate.gate_weights for name, gate in self.gates.items()}

    def build(self, input_shape):
        for gate in self.gates.values():
            gate.build(input_shape)

    def call(self, inputs, training=None):
        for gate in self.gates.values():
            inputs = gate(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        regularizer = keras.regularizers.serialize(self.options["gamma_regularizer"])
        return {
            **super().get_config(),
            "channel": self.channel,
            "spatial": self.spatial,
            **self.options,
            "gamma_regularizer": regularizer,
        }
