"""The checkpoint formats: the name and layout that each gives to a model's variables."""

from typing import NamedTuple

import keras
import numpy as np

from keras_nam.weights import names

TORCH_PARAMETERS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
PADDLE_PARAMETERS = {
    **TORCH_PARAMETERS,
    "moving_mean": "_mean",
    "moving_variance": "_variance",
}


class Layout(NamedTuple):
    """An array's layout there: our axes permuted, and axes of length 1 added at the end."""

    axes: tuple
    added: int = 0

    def shape(self, shape):
        return (*(shape[axis] for axis in self.axes), *[1] * self.added)

    def from_keras(self, array):
        return np.ascontiguousarray(array.transpose(self.axes)).reshape(self.shape(array.shape))

    def to_keras(self, array):
        return array.reshape(array.shape[: len(self.axes)]).transpose(np.argsort(self.axes))


TORCH_LAYOUTS = {
    "vector": Layout((0,)),
    "dense": Layout((1, 0)),
    "pointwise": Layout((1, 0), added=2),
    "conv1d": Layout((2, 1, 0)),
    "conv2d": Layout((3, 2, 0, 1)),
    "depthwise": Layout((2, 3, 0, 1)),
}
PADDLE_LAYOUTS = {**TORCH_LAYOUTS, "dense": Layout((0, 1))}


class Format(NamedTuple):
    """A row of the table of formats."""

    resnet: dict
    parameters: dict
    layouts: dict
    # PyTorch's normalizations count their batches. The count is unused while momentum is fixed.
    counts_batches: bool = True


FORMATS = {
    "weiaicunzai": Format(names.WEIAICUNZAI, TORCH_PARAMETERS, TORCH_LAYOUTS),
    "official": Format(names.OFFICIAL, TORCH_PARAMETERS, TORCH_LAYOUTS),
    "paddle": Format(names.OFFICIAL, PADDLE_PARAMETERS, PADDLE_LAYOUTS, counts_batches=False),
}
# torchvision's ResNets have the official repository's names.
ALIASES = {"torchvision": "official"}


class Entry(NamedTuple):
    """A variable of a model, with its key and layout in a format."""

    variable: object
    key: str
    layout: Layout

    @property
    def shape(self):
        return self.layout.shape(tuple(self.variable.shape))


def bfloat16(bits):
    """Returns the float32 array of bfloat16 numbers given as uint16: float32's upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def format_names():
    """Returns the names that `format=` takes."""
    return [*FORMATS, *ALIASES]


def entries(model, format):
    """Returns an `Entry` for every weight of a model, or of a single attention layer.

    Args:
        model: One of `create_model`'s models, or a built attention layer.
        format: String, a key of `FORMATS`.

    Raises:
        ValueError: If the model has a layer that the format has no name for.
    """
    row = FORMATS[format]
    layers, rows = [model], None
    if isinstance(model, keras.Model):
        layers = model.layers
        is_mobilenet = any(layer.name == "head_conv" for layer in layers)
        rows = names.MOBILENET_V2 if is_mobilenet else row.resnet
    return [_entry(layer, v, row, rows) for layer in layers for v in layer.weights]


def _entry(layer, variable, row, rows):
    # The path of a layer inside another one holds slashes.
    inner = variable.path.removeprefix(layer.path).strip("/")
    part, _, parameter = inner.rpartition("/")
    name = names.layer_name(layer, part, rows)
    if name is None or parameter not in row.parameters:
        raise ValueError(
            f"No name for {variable.path!r}: only the networks of `create_model` and the attention "
            f"layers have names in other frameworks. Received: {layer.__class__.__name__}"
        )
    layout = row.layouts[_kind(layer, variable, rows)]
    return Entry(variable, f"{name}.{row.parameters[parameter]}", layout)


def _kind(layer, variable, rows):
    kind = {1: "vector", 2: "dense", 3: "conv1d", 4: "conv2d"}[len(variable.shape)]
    if kind == "conv2d" and isinstance(layer, keras.layers.DepthwiseConv2D):
        return "depthwise"
    if kind == "dense" and layer.name == "logits" and rows is names.MOBILENET_V2:
        return "pointwise"
    return kind
