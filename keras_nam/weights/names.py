"""What the models' layers are called in other frameworks: one table a format."""

import re
from typing import NamedTuple

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
