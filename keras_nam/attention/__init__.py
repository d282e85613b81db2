"""Attention by name: one file per mechanism, one row here."""

from functools import partial
from typing import NamedTuple

from keras_nam.attention.bam import BAM
from keras_nam.attention.cbam import CBAM
from keras_nam.attention.eca import ECA
from keras_nam.attention.nam import NAM, NAMChannelAttention, NAMSpatialAttention
from keras_nam.attention.squeeze_excite import SqueezeExcite


class Attention(NamedTuple):
    """A row of the table.

    Attributes:
        layer: Callable that makes the layer.
        place: Where it stands in a network. `"block"`: after a block's last normalization, before
            the residual sum. `"stage"`: after a stage that is followed by a strided one.
        per_position: Whether it has weights for each position, so the image size is fixed.
    """

    layer: type
    place: str = "block"
    per_position: bool = False


ATTENTIONS = {
    "nam": Attention(NAMChannelAttention),
    "nam_spatial": Attention(NAMSpatialAttention, per_position=True),
    "nam_full": Attention(partial(NAM, spatial=True), per_position=True),
    "se": Attention(SqueezeExcite),
    "cbam": Attention(CBAM),
    "bam": Attention(BAM, place="stage"),
    "eca": Attention(ECA),
}
