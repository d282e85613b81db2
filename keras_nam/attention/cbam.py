"""CBAM: convolutional block attention module."""

import keras
from keras import ops

from keras_nam.attention.base import ImageAttention, TorchModule
from keras_nam.normalization import BatchNormalization


@keras.saving.register_keras_serializable(package="keras_nam")
class CBAM(ImageAttention):
    """Convolutional block attention: channels, then positions, weighed by their pools.

    `x' = x * sigmoid(mlp(mean(x)) + mlp(max(x)))`, over the positions, one shared mlp;
    `y = x' * sigmoid(BN(conv7x7([max(x'), mean(x')])))`, over the channels.

    As in the authors' code, and in the official NAM repository, the convolution has no bias and
    is followed by a batch normalization of momentum 0.99, which the paper does not mention.

    Args:
        reduction: Integer, the mlp's hidden units are `channels // reduction`, at least 1.
        kernel_size: Odd integer, the size of the convolution over the positions.
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

    - [Woo et al., 2018](https://arxiv.org/abs/1807.06521)
    """

    torch_module = TorchModule(
        "cbam",
        {
            "fc1": "ChannelGate.mlp.1",
            "fc2": "ChannelGate.mlp.3",
            "spatial_conv": "SpatialGate.spatial.conv",
            "spatial_bn": "SpatialGate.spatial.bn",
        },
    )

    def __init__(self, reduction=16, kernel_size=7, data_format=None, **kwargs):
        super().__init__(data_format=data_format, **kwargs)
        self.reduction = reduction
        self.kernel_size = kernel_size

    def build_gates(self, channels):
        hidden = max(1, channels // self.reduction)
        self.fc1 = keras.layers.Dense(hidden, "relu", dtype=self.dtype_policy, name="fc1")
        self.fc2 = keras.layers.Dense(channels, dtype=self.dtype_policy, name="fc2")
        self.spatial_conv = keras.layers.Conv2D(
            filters=1,
            kernel_size=self.kernel_size,
            padding="same",
            use_bias=False,
            data_format=self.data_format,
            dtype=self.dtype_policy,
            name="spatial_conv",
        )
        options = {"momentum": 0.99, "epsilon": 1e-5, "dtype": self.dtype_policy}
        self.spatial_bn = BatchNormalization(self.channels_axis, name="spatial_bn", **options)
        self.fc1.build((None, channels))
        self.fc2.build((None, hidden))
        self.spatial_conv.build(self.maps_shape(2))
        self.spatial_bn.build(self.maps_shape(1))

    def call(self, inputs, training=None):
        means = self.fc2(self.fc1(self.mean_over_positions(inputs)))
        maxima = self.fc2(self.fc1(ops.max(inputs, axis=self.positions_axes)))
        x = inputs * self.over_positions(ops.sigmoid(means + maxima))
        pools = [pool(x, axis=self.channels_axis, keepdims=True) for pool in (ops.max, ops.mean)]
        maps = self.spatial_conv(ops.concatenate(pools, axis=self.channels_axis))
        return x * ops.sigmoid(self.spatial_bn(maps, training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "kernel_size": self.kernel_size,
        }
