"""Base of the attention layers: the accepted shapes, and pooling over positions."""

from typing import NamedTuple

import keras
from keras import ops

CHANNEL_AXES = {"channels_last": -1, "channels_first": 1}


class TorchModule(NamedTuple):
    """A layer in the PyTorch code of its authors (NAM, CBAM, BAM: in the official NAM repository).

    Attributes:
        name: String, the module's name in a block.
        parts: Dictionary, inner layer here -> module there; `""` is the layer itself.
    """

    name: str
    parts: dict


def resolve_data_format(data_format=None):
    """Returns a data format, Keras' setting for `None`. A layer saves the result."""
    data_format = keras.config.image_data_format() if data_format is None else data_format
    if data_format not in CHANNEL_AXES:
        raise ValueError(
            f"The `data_format` must be one of {list(CHANNEL_AXES)}. "
            f"Received: data_format={data_format}"
        )
    return data_format


def channel_axis(data_format=None):
    """Returns the axis of the channels, -1 or 1, of a data format (`None`: Keras' setting)."""
    return CHANNEL_AXES[resolve_data_format(data_format)]


def check_shape(layer, input_shape, channels, any_rank=False, positions=False):
    """Raises a ValueError unless the inputs have a fitting rank and a known number of channels.

    Args:
        layer: The layer, whose class the message names.
        input_shape: Tuple, `None` where a dimension is not known.
        channels: The channels' axis.
        any_rank: Whether the inputs need not be images: rank 2 and more.
        positions: Whether the height and width must be known too.
    """
    name = layer.__class__.__name__
    if any_rank and len(input_shape) < 2:
        expected = f"{name} expects inputs of rank 2 or more, such as [N, ..., C]."
    elif not any_rank and len(input_shape) != 4:
        expected = f"{name} expects inputs of rank 4, images [N, H, W, C] or [N, C, H, W]."
    elif not -len(input_shape) <= channels < len(input_shape):
        expected = f"{name} expects inputs with an axis {channels}."
    elif input_shape[channels] is None:
        expected = f"The channel dimension (axis {channels}) of {name}'s inputs must be defined."
    elif positions and None in input_shape[1:]:
        expected = (
            f"{name} has a weight for each position: the height and width of its inputs must be "
            "defined."
        )
    else:
        return
    raise ValueError(f"{expected} Received: input_shape={tuple(input_shape)}")


class ImageAttention(keras.layers.Layer):
    """Base of the layers that weigh their inputs by a small network.

    A subclass creates its inner layers in `build_gates(channels)`, and weighs in `call`. Its
    inputs are images, unless `any_rank` is set.

    Args:
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras' setting.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).
    """

    any_rank = False

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = resolve_data_format(data_format)
        self.channels_axis = channel_axis(self.data_format)

    def build(self, input_shape):
        check_shape(self, input_shape, self.channels_axis, self.any_rank)
        rank, channels = len(input_shape), input_shape[self.channels_axis]
        last = self.channels_axis == -1
        self.positions_axes = tuple(range(1, rank - 1) if last else range(2, rank))
        self.input_spec = keras.InputSpec(ndim=rank, axes={self.channels_axis: channels})
        self.build_gates(channels)
        for layer in self._flatten_layers(include_self=False):
            layer.trainable = self.trainable  # it may have been set before they were created

    def maps_shape(self, channels):
        """Returns the shape of maps of a number of channels."""
        return (
            (None, None, None, channels)
            if self.channels_axis == -1
            else (None, channels, None, None)
        )

    def mean_over_positions(self, inputs):
        """Returns the mean of each channel, [N, C]."""
        return ops.mean(inputs, axis=self.positions_axes) if self.positions_axes else inputs

    def over_positions(self, vectors):
        """Returns vectors [N, C] in a shape that broadcasts against the inputs."""
        return ops.expand_dims(vectors, self.positions_axes) if self.positions_axes else vectors

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}
