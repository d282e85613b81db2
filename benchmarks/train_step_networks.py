"""The networks that are compared: ours, and the same as others would write them."""

import keras
from keras import ops

import keras_nam
from keras_nam.models import parse_arch
from training.cli import InputError


class StockGate(keras.layers.Layer):
    """NAM's channel attention as its formula stands, on Keras' own normalization.

    `y = x * sigmoid(w * BN(x))`, `w = |gamma| / sum(|gamma|)`

    Args:
        momentum: Momentum of the moving statistics.
        epsilon: Added to the variance.
        **kwargs: Base layer keyword arguments (`name`, `dtype`).
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.normalization = keras.layers.BatchNormalization(momentum=momentum, epsilon=epsilon)

    def build(self, input_shape):
        self.normalization.build(input_shape)

    def weights_of_channels(self):
        """Returns `|gamma| / sum(|gamma|)`, [C]."""
        magnitude = ops.abs(self.normalization.gamma)
        return magnitude / ops.sum(magnitude)

    def call(self, x, training=None):
        weights = self.weights_of_channels()
        return x * ops.sigmoid(weights * self.normalization(x, training=training))


class OfficialGate(StockGate):
    """The official PyTorch block, line by line.

    Its two transpositions are mirrored: there they bring the channels to the end and back, here,
    where they are at the end, to the front and back. As there, no gradient flows through `w`.
    """

    def call(self, x, training=None):
        residual = x
        x = self.normalization(x, training=training)
        weights = ops.stop_gradient(self.weights_of_channels())
        x = ops.transpose(x, (0, 3, 1, 2))
        x = ops.multiply(weights[:, None, None], x)
        x = ops.transpose(x, (0, 2, 3, 1))
        return ops.sigmoid(x) * residual


def check_arch(arch):
    """Raises an InputError unless an arch has NAM's channel attention, and nothing else."""
    try:
        attention = parse_arch(arch)[2]
    except ValueError as error:
        raise InputError(f"--arch {arch}: {error}") from None
    if attention != "nam":
        raise InputError(
            f"--arch {arch} has {attention or 'no attention'}: expected <backbone>_nam, the "
            f"attention whose cost is measured, such as {arch.partition('_')[0]}_nam"
        )


def plain_arch(arch):
    """Returns the name of an arch without its attention."""
    return arch.partition("_")[0]


def rewritten(model, gate):
    """Returns a model's network on Keras' own normalizations, with the same weights.

    Args:
        model: Of `create_model`.
        gate: Class of the layer in the place of `NAMChannelAttention`.
    """

    def replaced(layer):
        if isinstance(layer, keras_nam.NAMChannelAttention):
            return gate(layer.momentum, layer.epsilon, name=layer.name)
        stock = isinstance(layer, keras_nam.BatchNormalization)
        kind = keras.layers.BatchNormalization if stock else layer.__class__
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=replaced)
    copy.set_weights(model.get_weights())
    return copy
