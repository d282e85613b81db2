"""The names and layouts of each checkpoint format, as a function of the models' layer names."""

import re
from typing import NamedTuple

import keras
import numpy as np

from keras_nam.attention import (
    BAM,
    CBAM,
    ECA,
    NAM,
    NAMChannelAttention,
    NAMSpatialAttention,
    SqueezeExcite,
)
from keras_nam.models.mobilenet_v2 import STAGES


class Module(NamedTuple):
    """An attention in PyTorch: its layer here, the module's name there, those of its parts."""

    layer: type
    name: str
    parts: dict


# NAM, CBAM and BAM as the official repository has them; SE and ECA as their authors' code does.
ATTENTIONS = {
    "nam": Module(NAMChannelAttention, "nam.Channel_Att", {"": "bn2"}),
    "nam_spatial": Module(NAMSpatialAttention, "nam.Spatial_Att", {"": "bn"}),
    "nam_full": Module(NAM, "nam", {"channel": "Channel_Att.bn2", "spatial": "Spatial_Att.bn"}),
    "se": Module(SqueezeExcite, "se", {"fc1": "fc.0", "fc2": "fc.2"}),
    "eca": Module(ECA, "eca", {"conv": "conv"}),
    "cbam": Module(
        CBAM,
        "cbam",
        {
            "fc1": "ChannelGate.mlp.1",
            "fc2": "ChannelGate.mlp.3",
            "spatial_conv": "SpatialGate.spatial.conv",
            "spatial_bn": "SpatialGate.spatial.bn",
        },
    ),
    "bam": Module(
        BAM,
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
    ),
}

# The layers of our models, by where they stand. The rows below give their names elsewhere, with
# the fields {kind}, {stage}, {number} as matched; {block} and {position} counted from 0, the
# latter in a Sequential of convolution, normalization, activation; {index} is ".{block}", or
# nothing where a MobileNetV2 stage is a single block.
_BLOCK = r"stage(?P<stage>\d+)_block(?P<block>\d+)_"
_ATTENTION = rf"(?P<attention>{'|'.join(ATTENTIONS)})(?:/(?P<part>\w+))?"
PLACES = {
    "stem": r"stem_(?P<kind>conv|bn)",
    "head": r"head_(?P<kind>conv|bn)",
    "residual": _BLOCK + r"(?P<kind>conv|bn)(?P<number>\d)",
    "shortcut": _BLOCK + r"shortcut_(?P<kind>conv|bn)",
    "block_attention": _BLOCK + _ATTENTION,
    "stage_attention": r"stage(?P<stage>\d+)_" + _ATTENTION,
    "logits": r"logits",
}
OFFICIAL = {
    "stem": "{kind}1",
    "residual": "layer{stage}.{block}.{kind}{number}",
    "shortcut": "layer{stage}.{block}.downsample.{position}",
    "block_attention": "layer{stage}.{block}.{module}.{part}",
    "stage_attention": "{module}{stage}.{part}",
    "logits": "fc",
}
WEIAICUNZAI = {
    "stem": "conv1.{position}",
    "residual": "conv{next_stage}_x.{block}.residual_function.{position}",
    "shortcut": "conv{next_stage}_x.{block}.shortcut.{position}",
    "block_attention": "conv{next_stage}_x.{block}.{module}.{part}",
    "stage_attention": "{module}{stage}.{part}",
    "logits": "fc",
}
# weiaicunzai's; the official repository and the Paddle port have no MobileNetV2 of their own.
MOBILENET_V2 = {
    "stem": "pre.{position}",
    "head": "conv1.{position}",
    "residual": "stage{stage}{index}.residual.{position}",
    "block_attention": "stage{stage}{index}.{module}.{part}",
    "stage_attention": "{module}{stage}.{part}",
    "logits": "conv2",
}

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
    """How an array of ours lies there: its axes permuted, and axes of length 1 added at the end."""

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
    # PyTorch's normalizations count their batches, which nothing reads while momentum is fixed.
    counts_batches: bool = True


FORMATS = {
    "weiaicunzai": Format(WEIAICUNZAI, TORCH_PARAMETERS, TORCH_LAYOUTS),
    "official": Format(OFFICIAL, TORCH_PARAMETERS, TORCH_LAYOUTS),
    "paddle": Format(OFFICIAL, PADDLE_PARAMETERS, PADDLE_LAYOUTS, counts_batches=False),
}
# torchvision's ResNets have the official repository's names.
ALIASES = {"torchvision": "official"}


class Entry(NamedTuple):
    """A variable of a model, and what a format makes of it."""

    variable: object
    key: str
    layout: Layout

    @property
    def shape(self):
        return self.layout.shape(tuple(self.variable.shape))


def format_names():
    """Returns the names that `format=` takes."""
    return [*FORMATS, *ALIASES]


def layer_name(path, rows):
    """Returns the name by a format's rows of a layer such as `"stage1_block2_cbam/fc1"`.

    Returns `None` where the format has no such layer.
    """
    for place, pattern in PLACES.items():
        match = re.fullmatch(pattern, path)
        if match and place in rows:
            return rows[place].format(**_fields(match.groupdict()))
    return None


def _fields(groups):
    fields = {name: value or "" for name, value in groups.items()}
    stage, block = int(fields.get("stage") or 0), int(fields.get("block") or 1) - 1
    fields["next_stage"] = stage + 1
    fields["block"] = block
    single = 0 < stage <= len(STAGES) and STAGES[stage - 1][2] == 1
    fields["index"] = "" if single else f".{block}"
    fields["position"] = 3 * (int(fields.get("number") or 1) - 1) + (fields.get("kind") == "bn")
    if "attention" in fields:
        module = ATTENTIONS[fields["attention"]]
        fields["module"], fields["part"] = module.name, module.parts[fields["part"]]
    return fields


def entries(model, format):
    """Returns an `Entry` for every weight of a model, or of a single attention layer.

    Args:
        model: One of `create_model`'s models, or a built attention layer.
        format: String, a key of `FORMATS`.

    Raises:
        ValueError: If the model has a layer that the format has no name for.
    """
    row = FORMATS[format]
    if isinstance(model, keras.Model):
        layers = model.layers
        mobilenet = any(layer.name == "head_conv" for layer in layers)
        rows = MOBILENET_V2 if mobilenet else row.resnet
    else:
        layers, mobilenet, rows = [model], False, None
    return [
        _entry(layer, variable, row, rows, mobilenet)
        for layer in layers
        for variable in layer.weights
    ]


def _entry(layer, variable, row, rows, mobilenet):
    # The layer's name may hold slashes; what follows it is ours.
    inner = variable.path.removeprefix(layer.path).strip("/")
    part, _, parameter = inner.rpartition("/")
    if rows is None:
        name = _part_of_attention(layer, part)
    else:
        name = layer_name(f"{layer.name}/{part}".strip("/"), rows)
    if name is None or parameter not in row.parameters:
        raise ValueError(
            f"No name for {variable.path!r}: only the networks of `create_model` and the attention "
            f"layers have names in other frameworks. Received: {layer.__class__.__name__}"
        )
    kind = _kind(layer, variable, mobilenet)
    return Entry(variable, f"{name}.{row.parameters[parameter]}", row.layouts[kind])


def _part_of_attention(layer, part):
    for module in ATTENTIONS.values():
        if type(layer) is module.layer:
            return module.parts[part]
    return None


def _kind(layer, variable, mobilenet):
    if isinstance(layer, keras.layers.DepthwiseConv2D) and len(variable.shape) == 4:
        return "depthwise"
    if mobilenet and layer.name == "logits" and len(variable.shape) == 2:
        return "pointwise"
    return {1: "vector", 2: "dense", 3: "conv1d", 4: "conv2d"}[len(variable.shape)]
