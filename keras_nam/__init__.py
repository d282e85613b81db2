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
from keras_nam.fold import fold
from keras_nam.gates import gate_values
from keras_nam.models import create_model, list_archs
from keras_nam.normalization import BatchNormalization
from keras_nam.slim import slim
from keras_nam.weights import load_weights, to_paddle_state_dict, to_torch_state_dict

__version__ = "0.1.0"  # setup.cfg reads it
