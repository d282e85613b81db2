"""The gate's training step without a pass for statistics: the numbers of the one with it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from folded_models import draw
from golden_modules import relative_error

import keras_nam
from keras_nam import derived_gate
from keras_nam.normalization import BatchNormalization
from training.network import with_dtype

SHAPE = (8, 6, 5, 7)


def block(gate=None, **options):
    """A normalization and the gate after it, with drawn weights; the first gamma is 0."""
    inputs = keras.Input(SHAPE[1:])
    x = BatchNormalization(epsilon=1e-3, name="bn", **options)(inputs)
    gate = keras_nam.NAMChannelAttention(name="gate") if gate is None else gate
    return draw(keras.Model(inputs, gate(x)))


def step(model, images, weights):
    """Returns outputs, gradients (of images and variables) and moving statistics of a step."""
    x = tf.constant(images)
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x, training=True)
            loss = tf.reduce_sum(outputs * tf.cast(weights, outputs.dtype))
        return outputs, tape.gradient(loss, [x, *variables])

    outputs, gradients = run(x)
    return [outputs, *gradients, *map(np.asarray, model.non_trainable_variables)]


@pytest.fixture
def drawn():
    rng = np.random.default_rng(2)
    scales = 10.0 ** np.arange(-2, SHAPE[-1] - 2)  # a variance far below epsilon, and far above
    return (rng.normal(1, 1, SHAPE) * scales).astype("float32"), rng.normal(size=SHAPE)


@pytest.fixture
def taken(monkeypatch):
    """The calls of `derived_gate.gate`, which goes on working."""
    calls = []
    gate = derived_gate.gate

    def counted(*arguments):
        calls.append(arguments)
        return gate(*arguments)

    monkeypatch.setattr(derived_gate, "gate", counted)
    return calls


@pytest.mark.parametrize("gate_gradient", [True, False])
@pytest.mark.parametrize("weighting", ["sum", "unnormalized"])
def test_it_is_the_gate_in_float64(drawn, taken, gate_gradient, weighting):
    gate = keras_nam.NAMChannelAttention(
        gate_gradient=gate_gradient, weighting=weighting, name="gate"
    )
    model = block(gate)
    truth = with_dtype(model, "float64")
    found = step(model, drawn[0], drawn[1])
    assert len(taken) == 1
    expected = step(truth, drawn[0].astype("float64"), drawn[1])
    assert len(taken) == 1
    for actual, true in zip(found, expected, strict=True):
        assert relative_error(actual, true) < 2e-5


def test_without_offset(drawn, taken):
    model = block(keras_nam.NAMChannelAttention(center=False, name="gate"), center=False)
    truth = with_dtype(model, "float64")
    for actual, true in zip(
        step(model, drawn[0], drawn[1]),
        step(truth, drawn[0].astype("float64"), drawn[1]),
        strict=True,
    ):
        assert relative_error(actual, true) < 2e-5
    assert len(taken) == 1


def frozen_normalization():
    model = block()
    model.get_layer("bn").trainable = False
    return model


def after_a_relu():
    inputs = keras.Input(SHAPE[1:])
    x = keras.layers.ReLU()(BatchNormalization()(inputs))
    return keras.Model(inputs, keras_nam.NAMChannelAttention()(x))


def frozen_gate():
    model = block()
    model.get_layer("gate").trainable = False
    return model


@pytest.mark.parametrize(
    "make",
    [frozen_normalization, after_a_relu, frozen_gate, lambda: with_dtype(block(), "mixed_float16")],
)
def test_not_where_the_statistics_are_others(drawn, taken, make):
    make()(drawn[0], training=True)
    assert not taken


def test_not_at_inference(drawn, taken):
    block()(drawn[0], training=False)
    assert not taken


def test_every_block_of_a_network_takes_it(taken):
    keras_nam.create_model("r18w4_nam")(np.zeros((2, 32, 32, 3), "float32"), training=True)
    assert len(taken) == 8
