"""The names of the models' layers in other frameworks: one table per format."""

import re

from keras_nam.models.mobilenet_v2 import STAGES

# The layers of our models by place; the tables below give their names elsewhere. Their fields are
# {kind} and {stage} as matched; {block}, counted from 0; {position} in a Sequential of convolution,
# normalization, activation; {index}, ".{block}" or nothing where a MobileNetV2 stage is a single
# block; {module} and {part} of an attention's `torch_module`.
_BLOCK = r"stage(?P<stage>\d+)_block(?P<block>\d+)_"
PLACES = {
    "stem": r"stem_(?P<kind>conv|bn)",
    "head": r"head_(?P<kind>conv|bn)",
    "residual": _BLOCK + r"(?P<kind>conv|bn)(?P<number>\d)",
    "shortcut": _BLOCK + r"shortcut_(?P<kind>conv|bn)",
    "logits": r"logits",
}
ATTENTION_PLACES = {
    "block_attention": _BLOCK + r"\w+",
    "stage_attention": r"stage(?P<stage>\d+)_\w+",
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
# weiaicunzai's: the official repository and the Paddle port have no MobileNetV2.
MOBILENET_V2 = {
    "stem": "pre.{position}",
    "head": "conv1.{position}",
    "residual": "stage{stage}{index}.residual.{position}",
    "block_attention": "stage{stage}{index}.{module}.{part}",
    "stage_attention": "{module}{stage}.{part}",
    "logits": "conv2",
}


def layer_name(layer, part, rows):
    """Returns a layer's name by a format's rows, or `None` where the format has no such layer.

    Args:
        layer: The layer of our model.
        part: String, the layer inside an attention, or `""`.
        rows: Dictionary, place -> name, or `None` for an attention alone.
    """
    attention = getattr(layer, "torch_module", None)
    if attention and rows is None:
        return attention.parts.get(part)
    for place, pattern in (ATTENTION_PLACES if attention else PLACES).items():
        match = re.fullmatch(pattern, layer.name)
        if match and place in (rows or ()):
            fields = _fields(**match.groupdict())
            if attention:
                fields |= {"module": attention.name, "part": attention.parts[part]}
            return rows[place].format(**fields)
    return None


def _fields(kind=None, stage=0, block=1, number=1):
    stage, block, number = int(stage), int(block) - 1, int(number)
    single = 0 < stage <= len(STAGES) and STAGES[stage - 1][2] == 1
    return {
        "kind": kind,
        "stage": stage,
        "next_stage": stage + 1,
        "block": block,
        "index": "" if single else f".{block}",
        "number": number,
        "position": 3 * (number - 1) + (kind == "bn"),
    }
