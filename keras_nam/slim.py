"""Slimming: removes channels between a model's convolutions."""

import numpy as np
from keras import activations, layers, ops

from keras_nam.fold import NORMALIZATIONS, has_plain_kernel
from keras_nam.graph_copy import GraphCopy, again, following

# Linear layer -> the argument that is its number of output channels.
LINEAR = {
    layers.Dense: "units",
    layers.Conv1D: "filters",
    layers.Conv2D: "filters",
    layers.Conv3D: "filters",
}
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
# Each channel of their outputs depends on this channel alone, and is 0 where it is 0.
BY_CHANNEL = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
)
ACTIVATIONS = (
    *(None, activations.linear, activations.relu, activations.relu6, activations.leaky_relu),
    *(activations.elu, activations.gelu, activations.silu, activations.hard_silu),
    *(activations.selu, activations.tanh),
)


def slim(model, share, by="gamma"):
    """Returns a smaller model, without the least important channels between its convolutions.

    It looks at the channels of a linear layer (a convolution or Dense) that reach the next linear
    layer through a batch normalization, and through nothing else but activations, paddings,
    poolings, dropouts, depthwise convolutions and other batch normalizations: `conv1 → bn1 → relu
    → conv2` of a residual block, or the expansion of an inverted residual. The layers between must
    have one use each. The shapes of inputs and outputs, and of all other tensors, stay.

    Removing a channel whose `gamma` and `beta` are 0 leaves the outputs equal, unless a depthwise
    convolution with a bias stands after the last normalization. Otherwise train the model further.

    Args:
        model: A `keras.Model`, functional or a built `Sequential`. It is not changed.
        share: Float in [0, 1), of the channels between two linear layers that are removed. At
            least one stays.
        by: Importance of the channels: `"gamma"` is `|gamma|` of the last normalization before
            the next linear layer, `"l1"` the sum of the absolute kernel of each output channel; or
            a function from the first linear layer and that normalization to an array [channels].

    Returns:
        A functional `keras.Model` that shares no variables with the model, and is not compiled.

    Raises:
        ValueError: If `share` or `by` is none of these. If the model has no such channels, or it
            is not a graph of layers, or a layer cannot be copied.

    Reference:

    - [Liu et al., 2017, Network Slimming](https://arxiv.org/abs/1708.06519)

    Example:

    >>> model = keras_nam.create_model("r50_nam")
    >>> keras_nam.slim(model, 0.5).count_params()
    10636068
    """
    if not 0 <= share < 1:
        raise ValueError(f"Expected a `share` of the channels in [0, 1). Received: share={share}")
    if not (callable(by) or by in IMPORTANCE):
        raise ValueError(f"Expected `by` in {list(IMPORTANCE)} or a function. Received: by={by!r}")
    return _Slimming(model, share, IMPORTANCE.get(by, by)).copy()


def _gammas(layer, normalization):
    return np.abs(ops.convert_to_numpy(normalization.gamma))


def _kernel_sums(layer, normalization):
    kernel = np.abs(ops.convert_to_numpy(layer.kernel))
    return kernel.reshape(-1, kernel.shape[-1]).sum(0)


IMPORTANCE = {"gamma": _gammas, "l1": _kernel_sums}


class _Slimming(GraphCopy):
    def __init__(self, model, share, importance):
        super().__init__(model, "slim")
        self.inputs, self.outputs = {}, {}  # layer -> the channels that it keeps
        for first, *between, last in _chains(self.graphs.values()):
            scores = importance(first, _normalizations(between)[-1])
            count = min(round(share * len(scores)), len(scores) - 1)
            kept = np.sort(np.argsort(scores, kind="stable")[count:])
            self.outputs |= dict.fromkeys((first, *between), kept)
            self.inputs |= dict.fromkeys((*between, last), kept)
        if not self.inputs:
            raise ValueError(
                f"`slim` found no channels to remove in {model.name!r}. Expected a convolution, a "
                "batch normalization with a scale, and another convolution, without branches "
                "between them."
            )

    def replacement(self, layer):
        if not (layer in self.inputs or layer in self.outputs) or not layer.weights:
            return None
        inputs, outputs = self.inputs.get(layer), self.outputs.get(layer)
        resized = type(layer) in LINEAR and outputs is not None
        copy = again(layer, **({LINEAR[type(layer)]: len(outputs)} if resized else {}))
        self.transfers.append((layer, _copy_kept, layer, copy, inputs, outputs))
        return copy


def _copy_kept(layer, copy, inputs, outputs):
    """Assigns the weights of the channels that are kept; `None` keeps all."""
    for variable, target in zip(layer.weights, copy.weights, strict=True):
        value = ops.convert_to_numpy(variable)
        is_kernel = variable.name == "kernel"  # [..., inputs, outputs or 1]
        if is_kernel and inputs is not None:
            value = value.take(inputs, -2)
        if outputs is not None and not (is_kernel and type(layer) in DEPTHWISE):
            value = value.take(outputs, -1)
        target.assign(value)


def _chains(graphs):
    """Returns lists of layers, from a linear layer over a normalization to the next linear one."""
    followers = following(graphs)
    chains = []
    for first in filter(_is_linear, followers):
        chain, axes = [first], set()
        while chain[-1] in followers and (len(chain) == 1 or _is_between(chain[-1])):
            layer, rank = followers[chain[-1]]
            axes |= {_channel_axis(chain[-1], rank), _channel_axis(layer, rank)}
            chain.append(layer)
        first, *between, last = chain
        is_by_channel = all(getattr(x, "activation", None) in ACTIVATIONS for x in chain[:-1])
        is_ranked = any(x.scale for x in _normalizations(between)[-1:])
        if is_by_channel and is_ranked and _is_linear(last) and len(axes - {None}) == 1:
            chains.append(chain)
    return chains


def _normalizations(chain):
    return [layer for layer in chain if type(layer) in NORMALIZATIONS]


def _is_linear(layer):
    """Whether it is a Dense or convolution layer, not grouped, with no other weights."""
    return type(layer) in LINEAR and getattr(layer, "groups", 1) == 1 and has_plain_kernel(layer)


def _is_between(layer):
    """Whether each channel of its output depends on the same channel of its input alone."""
    return (
        type(layer) in BY_CHANNEL
        or (type(layer) in NORMALIZATIONS and not getattr(layer, "renorm", False))
        or (type(layer) in DEPTHWISE and layer.depth_multiplier == 1)
    )


def _channel_axis(layer, rank):
    """Returns the axis of the channels in a tensor of this rank; `None` if any will do."""
    if type(layer) in NORMALIZATIONS:
        return layer.axis % rank
    if type(layer) is layers.Dense:
        return rank - 1
    data_format = getattr(layer, "data_format", None)
    return data_format and (1 if data_format == "channels_first" else rank - 1)
