"""NAM, normalization-based attention, for Keras 3."""

from keras_nam.attention import (
    BAM,
    CBAM,
    ECA,
    NAM,
    NAMChannelAttention,
    NAMSpatialAttention,
    SqueezeExcite,
)
from keras_nam.models import create_model, list_archs
from keras_nam.normalization import BatchNormalization
