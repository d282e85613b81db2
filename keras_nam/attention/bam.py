"""BAM: bottleneck attention module."""

import keras
from keras import ops

from keras_nam.attention.base import ImageAttention, TorchModule
from keras_nam.normalization import BatchNormalization


@keras.saving.register_keras_serializable(package="keras_nam")
class BAM(ImageAttention):
    """Bottleneck attention: a channel and a spatial branch weigh the images together.

    `y = x * (1 + sigmoid(channel(x) * spatial(x)))`

    with `channel(x) = fc(relu(BN(fc(mean(x)))))`, [N, C], and `spatial(x)` a 1x1 convolution to
    `channels // reduction`, two dilated 3x3 ones, each followed by a normalization and a relu,
    and a 1x1 one to a single map, [N, H, W].

    The paper adds the branches. The authors' code and the official NAM repository multiply them,
    and so does this layer.

    Args:
        reduction: Integer, the branches have `channels // reduction` units, at least 1.
        dilation: Integer, the dilation of the 3x3 convolutions.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras' setting.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).

    Call arguments:
        inputs: Tensor of shape [N, H, W, C], or [N, C, H, W] for `"channels_first"`.
        training: Whether the batch's own statistics are used, and the moving ones updated.

    Returns:
        A tensor of the shape of the inputs.

    Raises:
        ValueError: If the inputs are not of rank 4, or their number of channels is not defined.

    Reference:

    - [Park et al., 2018](https://arxiv.org/abs/1807.06514)
    """

    torch_module = TorchModule(
        "bam",
        {
            "channel_fc1": "channel_att.gate_c.gate_c_fc_0",
            "channel_bn": "channel_att.gate_c.gate_c_bn_1",
            "channel_fc2": "channel_att.gate_c.gate_c_fc_final",
            "spatial_reduce_conv": "spatial_att.gate_s.gate_s_conv_reduce0",
            "spatial_reduce_bn": "spatial_att.gate_s.gate_s_bn_reduce0",
            "spatial_dilated1_conv": "spatial_att.gate_s.gate_s_conv_di_0",
            "spatial_dilated1_bn": "spatial_att.gate_s.gate_s_bn_di_0",
            "spatial_dilated2_conv": "spatial_att.gate_s.gate_s_conv_di_1",
            "spatial_dilated2_bn": "spatial_att.gate_s.gate_s_bn_di_1",
            "spatial_conv": "spatial_att.gate_s.gate_s_conv_final",
        },
    )

    def __init__(self, reduction=16, dilation=4, data_format=None, **kwargs):
        super().__init__(data_format=data_format, **kwargs)
        self.reduction = reduction
        self.dilation = dilation

    def build_gates(self, channels):
        hidden = max(1, channels // self.reduction)
        self.channel_branch = [
            keras.layers.Dense(hidden, dtype=self.dtype_policy, name="channel_fc1"),
            *self._normalization_and_relu("channel_bn", axis=-1),
            keras.layers.Dense(channels, dtype=self.dtype_policy, name="channel_fc2"),
        ]
        self.spatial_branch = [
            self._conv("spatial_reduce_conv", hidden, 1),
            *self._normalization_and_relu("spatial_reduce_bn", self.channels_axis),
            self._conv("spatial_dilated1_conv", hidden, 3, self.dilation),
            *self._normalization_and_relu("spatial_dilated1_bn", self.channels_axis),
            self._conv("spatial_dilated2_conv", hidden, 3, self.dilation),
            *self._normalization_and_relu("spatial_dilated2_bn", self.channels_axis),
            self._conv("spatial_conv", 1, 1),
        ]
        for branch, shape in (
            (self.channel_branch, (None, channels)),
            (self.spatial_branch, self.maps_shape(channels)),
        ):
            for layer in branch:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)

    def _normalization_and_relu(self, name, axis):
        options = {"momentum": 0.9, "epsilon": 1e-5, "dtype": self.dtype_policy, "name": name}
        return [BatchNormalization(axis, **options), keras.layers.ReLU(dtype=self.dtype_policy)]

    def _conv(self, name, filters, kernel_size, dilation=1):
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            dilation_rate=dilation,
            data_format=self.data_format,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, inputs, training=None):
        channel, spatial = self.mean_over_positions(inputs), inputs
        for layer in self.channel_branch:
            channel = layer(channel)
        for layer in self.spatial_branch:
            spatial = layer(spatial)
        return inputs * (1 + ops.sigmoid(self.over_positions(channel) * spatial))

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction, "dilation": self.dilation}
