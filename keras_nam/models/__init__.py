"""Networks by name: `<backbone>[w<width>][_<attention>]`, one row per backbone."""

import difflib
import re
from functools import partial
from typing import NamedTuple

import keras

from keras_nam.attention import ATTENTIONS
from keras_nam.attention.base import channel_axis
from keras_nam.models import mobilenet_v2
from keras_nam.models.resnet import BASIC, BOTTLENECK, STEMS, resnet


class Backbone(NamedTuple):
    """A row of the table: the function that builds the features, and its default width."""

    features: callable
    width: int = 64


BACKBONES = {
    "r18": Backbone(partial(resnet, block=BASIC, depths=(2, 2, 2, 2))),
    "r34": Backbone(partial(resnet, block=BASIC, depths=(3, 4, 6, 3))),
    "r50": Backbone(partial(resnet, block=BOTTLENECK, depths=(3, 4, 6, 3))),
    "r101": Backbone(partial(resnet, block=BOTTLENECK, depths=(3, 4, 23, 3))),
    "r152": Backbone(partial(resnet, block=BOTTLENECK, depths=(3, 8, 36, 3))),
    "mbv2": Backbone(mobilenet_v2.mobilenet_v2, width=mobilenet_v2.WIDTH),
}


def list_archs():
    """Returns the names that `create_model` takes, at their default widths."""
    suffixes = ["", *(f"_{attention}" for attention in ATTENTIONS)]
    return [backbone + suffix for backbone in BACKBONES for suffix in suffixes]


def parse_arch(arch):
    """Returns the backbone's name, the width and the attention's name (or `None`) of an arch.

    Raises:
        ValueError: If there is no such arch; the message has the nearest one and the list.
    """
    match = re.fullmatch(r"([a-z]+\d+?)(?:w([1-9]\d*))?(?:_(\w+))?", str(arch))
    backbone, width, attention = match.groups() if match else (None, None, None)
    if backbone not in BACKBONES or attention not in (None, *ATTENTIONS):
        names = list_archs()
        nearest = difflib.get_close_matches(re.sub(r"w\d+", "", str(arch)), names, n=1, cutoff=0)
        raise ValueError(
            f"Unknown arch. Received: {arch!r}; expected <backbone>[w<width>][_<attention>] with a "
            f"backbone of {', '.join(BACKBONES)} and an attention of {', '.join(ATTENTIONS)}. "
            f"Did you mean {nearest[0]!r}?"
        )
    return backbone, int(width or BACKBONES[backbone].width), attention


def image_shape(size):
    """Returns the shape of a square RGB image in Keras' data format."""
    return (size, size, 3) if channel_axis() == -1 else (3, size, size)


def create_model(
    arch,
    num_classes=100,
    input_shape=None,
    stem="cifar",
    include_top=True,
    **attention_options,
):
    """Creates a network by name.

    Args:
        arch: String, `<backbone>[w<width>][_<attention>]`, such as `"r50_nam"` or `"r18w16_se"`;
            `list_archs()` has the names. The width is the number of channels of the first stage
            (of the stem for `mbv2`).
        num_classes: Integer, the number of logits. Not used if `include_top=False`.
        input_shape: Shape of an image, in Keras' data format. Defaults to 32x32 pixels, 3 channels.
        stem: `"cifar"`: stride 1, for images of 32x32; `"imagenet"`: 7x7, stride 2, and a pooling.
        include_top: Whether the pooling and the classifier follow the features.
        **attention_options: Arguments of the attention's layer, such as `gate_gradient=False` or
            `gamma_regularizer=keras.regularizers.L1(1e-4)` for NAM.

    Returns:
        A `keras.Model` from normalized images, float [N, *input_shape], to logits, float32
        [N, num_classes]; with `include_top=False` to the features of the last stage, [N, h, w, C]
        in Keras' data format. `load_weights(model, path, strict=False)` loads a whole network's
        checkpoint into the latter.

    Raises:
        ValueError: If the arch or the stem is not known, or if options are given without attention.

    Example:

    >>> model = keras_nam.create_model("r50_nam", num_classes=100)
    >>> model.count_params()
    23818788

    Reference:

    - [He et al., 2016](https://arxiv.org/abs/1512.03385)
    - [Sandler et al., 2018](https://arxiv.org/abs/1801.04381)
    - [Liu et al., 2021](https://arxiv.org/abs/2111.12419)
    """
    backbone, width, attention = parse_arch(arch)
    if stem not in STEMS:
        raise ValueError(f"The `stem` must be one of {list(STEMS)}. Received: stem={stem!r}")
    if attention_options and attention is None:
        raise ValueError(
            f"{arch!r} has no attention that takes options. Received: {attention_options}"
        )

    def attend(x, place, name):
        if attention is None or ATTENTIONS[attention].place != place:
            return x
        return ATTENTIONS[attention].layer(**attention_options, name=f"{name}_{attention}")(x)

    images = keras.Input(input_shape or image_shape(32), name="image")
    x = BACKBONES[backbone].features(images, width=width, stem=stem, attend=attend)
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        x = keras.layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, x, name=arch)
