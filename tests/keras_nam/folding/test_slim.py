"""Slimming: which channels are removed, and what is left as it was."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_nam
from tests.support.backends import arrays
from tests.support.networks.folded_models import TOLERANCE, draw, images, model_of
from tests.support.networks.small_models import created_under, values_of
from tests.support.weights.golden_modules import relative_error


def convolution(filters=4, **options):
    return layers.Conv2D(filters, 3, padding="same", **options)


def close(model, name, mask):
    """Makes the normalization's outputs 0 in the channels of a mask."""
    normalization = model.get_layer(name)
    for variable in (normalization.gamma, normalization.beta):
        variable.assign(np.where(mask, 0, values_of(normalization)[0] + 2))


def assert_equal_outputs(model, slimmed, x):
    ours, theirs = arrays(model(x))[0], arrays(slimmed(x))[0]
    assert ours.shape == theirs.shape
    assert relative_error(theirs, ours) < TOLERANCE


@pytest.mark.parametrize(
    ("arch", "closed"),
    [
        ("r18w4_nam", ["bn1"]),
        ("r50w4_nam", ["bn1", "bn2"]),
        ("mbv2w8_nam", ["bn2"]),
    ],
)
def test_without_the_closed_channels_the_outputs_are_equal(arch, closed):
    model = draw(keras_nam.create_model(arch, 5, (16, 16, 3)))
    for layer in model.layers:
        if layer.name.endswith(tuple(closed)):
            channels = layer.gamma.shape[0]
            close(model, layer.name, np.random.default_rng(3).permutation(channels) % 2 == 0)
    before = values_of(model)
    slimmed = keras_nam.slim(model, 0.5)
    assert slimmed.count_params() < 0.75 * model.count_params()
    assert_equal_outputs(model, slimmed, images(2, 16, 16, 3))
    for ours, value in zip(values_of(model), before, strict=True):
        np.testing.assert_array_equal(ours, value)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "between",
    [
        lambda axis: [layers.BatchNormalization(axis=axis), layers.ReLU()],
        lambda axis: [keras_nam.BatchNormalization(axis=axis), layers.Activation("silu")],
        lambda axis: [
            layers.BatchNormalization(axis=axis),
            layers.LeakyReLU(),
            layers.ZeroPadding2D(1),
            layers.MaxPooling2D(2),
            layers.Dropout(0.5),
        ],
        lambda axis: [
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(axis=axis),
        ],
    ],
    ids=["relu", "silu", "pooling", "depthwise"],
)
def test_what_may_stand_between(between, data_format):
    shape, axis = ((3, 6, 6), 1) if data_format == "channels_first" else ((6, 6, 3), -1)
    with created_under(data_format=data_format):
        model = model_of(shape, convolution(8), *between(axis), convolution(5))
    name = next(layer.name for layer in model.layers if hasattr(layer, "gamma"))
    close(model, name, np.arange(8) % 2 == 1)
    slimmed = keras_nam.slim(model, 0.5)
    assert [layer.filters for layer in slimmed.layers if type(layer) is layers.Conv2D] == [4, 5]
    if data_format == "channels_first" and keras.backend.backend() == "tensorflow":
        return  # whose convolutions on a CPU are channels last
    assert_equal_outputs(model, slimmed, images(2, *shape))
    assert_equal_outputs(model, keras_nam.fold(slimmed), images(2, *shape))


BN = layers.BatchNormalization


def test_the_most_important_channels_are_kept():
    model = model_of((5,), layers.Dense(4, use_bias=False), BN(name="bn"), layers.Dense(3))
    first, bn, last = model.layers[1:]
    bn.gamma.assign([0.1, -3, 2, 0.2])
    first.kernel.assign(first.kernel * np.array([1, 100, 10, 1000]))
    kept = {
        "gamma": [1, 2],
        "l1": [1, 3],
        lambda layer, normalization: (
            [4, 1, 2, 3] if layer is first and normalization is bn else 0
        ): [0, 3],
    }
    bn.trainable = False
    for by, channels in kept.items():
        slimmed = keras_nam.slim(model, 0.5, by)
        expected = [
            values_of(first)[0][:, channels],
            *(value[channels] for value in values_of(bn)),
            values_of(last)[0][channels],
            values_of(last)[1],
        ]
        found = [value for layer in slimmed.layers for value in values_of(layer)]
        for ours, value in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, value)
        assert [layer.trainable for layer in slimmed.layers] == [True, True, False, True]


@pytest.mark.parametrize(("share", "channels"), [(0, 10), (0.14, 9), (0.99, 1)])
def test_the_share(share, channels):
    model = model_of((4,), layers.Dense(10), BN(), layers.Dense(3))
    assert keras_nam.slim(model, share).layers[1].units == channels


def test_inside_a_nested_model():
    nested = model_of((6, 6, 3), convolution(6), BN(), convolution())
    close(nested, nested.layers[2].name, np.arange(6) < 3)
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, nested(inputs))
    slimmed = keras_nam.slim(model, 0.5)
    assert slimmed.count_params() < model.count_params()
    assert_equal_outputs(model, slimmed, images(2, 6, 6, 3))


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution, self.bn = convolution(6), BN()

    def call(self, x, training=None):
        return self.bn(self.convolution(x), training=training)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 6)


def test_what_is_frozen_stays_frozen():
    stack = convolution(6), BN(), convolution(6), Block(), Block(), convolution()
    model = model_of((6, 6, 3), *stack)
    *_, whole, part, _ = model.layers
    whole.trainable = part.convolution.trainable = False
    slimmed = keras_nam.slim(model, 0.5)
    *_, whole, part, _ = slimmed.layers
    assert not whole.trainable_weights
    assert not any(weight.trainable for weight in whole.weights)
    assert not part.convolution.trainable
    assert [weight.name for weight in part.trainable_weights] == ["gamma", "beta"]
    assert part.trainable


def two_uses(x):
    x = BN()(convolution()(x))
    return layers.Add()([convolution(4)(x), x])


def an_output(x):
    x = BN()(convolution()(x))
    return [convolution()(x), x]


def shared(x):
    both = BN()
    return convolution()(both(convolution()(both(convolution()(x)))))


def stack(*between):
    def outputs(x):
        for layer in (convolution(), *between, convolution()):
            x = layer(x)
        return x

    return outputs


@pytest.mark.parametrize(
    "outputs",
    [
        two_uses,
        an_output,
        shared,
        stack(layers.ReLU()),
        stack(BN(scale=False)),
        stack(BN(axis=1)),
        stack(BN(), layers.Activation("sigmoid")),
        stack(BN(), layers.Softmax()),
        stack(BN(), keras_nam.NAMChannelAttention()),
        stack(BN(), layers.Flatten(), layers.Reshape((6, 6, 4))),
        stack(BN(), layers.DepthwiseConv2D(3, depth_multiplier=2)),
        stack(BN(), layers.Conv2D(4, 3, groups=2), BN()),
    ],
)
def test_channels_that_cannot_be_removed(outputs):
    inputs = keras.Input((6, 6, 3))
    with pytest.raises(ValueError, match="no channels"):
        keras_nam.slim(keras.Model(inputs, outputs(inputs)), 0.5)


def test_wrong_arguments():
    model = model_of((4,), layers.Dense(4), BN(), layers.Dense(3))
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=f"share={share}"):
            keras_nam.slim(model, share)
    with pytest.raises(ValueError, match="by='l2'"):
        keras_nam.slim(model, 0.5, by="l2")
    with pytest.raises(ValueError, match="`slim` expects a graph"):
        keras_nam.slim(keras.layers.Dense(3), 0.5)
