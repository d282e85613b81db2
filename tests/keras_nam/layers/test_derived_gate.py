"""The gate's training step without a pass for statistics equals the step with it."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from keras_nam import derived_gate
from keras_nam.normalization import BatchNormalization
from tests.support.backends import tensorflow_only
from tests.support.networks.folded_models import draw
from tests.support.weights.golden_modules import relative_error
from training.fitting.network import with_dtype

pytestmark = tensorflow_only
SHAPE = (8, 6, 5, 7)


def block(
    gate=keras_nam.NAMChannelAttention,
    dtype="float32",
    center=True,
    relu=False,
    frozen=(),
    **options,
):
    """A normalization and the gate after it, with drawn weights; the first gamma is 0."""
    inputs = keras.Input(SHAPE[1:], dtype=dtype)
    x = BatchNormalization(epsilon=1e-3, center=center, dtype=dtype, name="bn")(inputs)
    x = keras.layers.ReLU(dtype=dtype)(x) if relu else x
    x = gate(center=center, dtype=dtype, name="gate", **options)(x)
    model = draw(keras.Model(inputs, x))
    for name in frozen:
        model.get_layer(name).trainable = False
    return model


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
    """The calls of `derived_gate.gate`."""
    calls = []
    gate = derived_gate.gate

    def counted(*arguments):
        calls.append(arguments)
        return gate(*arguments)

    monkeypatch.setattr(derived_gate, "gate", counted)
    return calls


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, 1),
        ({"gate_gradient": False}, 1),
        ({"weighting": "unnormalized"}, 1),
        ({"weighting": "mean", "gain": 2.0}, 1),
        ({"center": False}, 1),
        ({"axis": 1}, 0),  # other statistics
        ({"axis": 2}, 0),
        ({"synchronized": True}, 0),
        ({"relu": True}, 0),
        ({"frozen": ["bn"]}, 0),
        ({"frozen": ["gate"]}, 0),
    ],
)
def test_it_is_the_gate_in_float64(drawn, taken, options, times):
    found = step(block(**options), *drawn)
    assert len(taken) == times
    images, weights = drawn
    expected = step(block(dtype="float64", **options), images.astype("float64"), weights)
    assert len(taken) == times
    for actual, true in zip(found, expected, strict=True):
        assert relative_error(actual, true) < 2e-5


def test_not_in_mixed_precision(drawn, taken):
    with_dtype(block(), "mixed_float16")(drawn[0], training=True)
    assert not taken


def test_every_block_of_a_network_takes_it_in_training(network, taken):
    for training in (False, True):
        network(np.zeros((2, 32, 32, 3), "float32"), training=training)
        assert len(taken) == 8 * training


def nested(dtype="float32"):
    """The normalization is in a model inside the model."""
    inner = keras.Input(SHAPE[1:], dtype=dtype)
    normalization = keras.Model(inner, BatchNormalization(dtype=dtype)(inner))
    inputs = keras.Input(SHAPE[1:], dtype=dtype)
    gate = keras_nam.NAMChannelAttention(dtype=dtype)
    return draw(keras.Model(inputs, gate(normalization(inputs))))


def objective(model, x):
    """A function of the outputs whose second derivatives are not 0."""
    weights = np.random.default_rng(3).normal(size=SHAPE)
    return tf.reduce_sum(tf.sin(model(x, training=True)) * tf.cast(weights, x.dtype))


def gradient(model, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = objective(model, x)
    return tape.gradient(value, x)


def reverse_over_reverse(model, x, direction):
    with tf.GradientTape() as tape:
        tape.watch(x)
        inner = gradient(model, x)
    return tape.gradient(inner, x, output_gradients=direction)


def forward_over_reverse(model, x, direction):
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        inner = gradient(model, x)
    return accumulator.jvp(inner)


def reverse_over_forward(model, x, direction):
    with tf.GradientTape() as tape:
        tape.watch(x)
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            value = objective(model, x)
        slope = accumulator.jvp(value)
    return tape.gradient(slope, x)


def central_difference(function, x, direction, step=1e-5):
    """The derivative of a function of float64 along a direction."""
    ends = [np.asarray(function(tf.constant(x + s * direction))) for s in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


@pytest.fixture
def along():
    """Inputs and a direction, float64."""
    rng = np.random.default_rng(4)
    return rng.normal(size=SHAPE), rng.normal(size=SHAPE)


MODES = [reverse_over_reverse, forward_over_reverse, reverse_over_forward]
OTHERS = [
    nested,
    partial(block, frozen=["bn"]),
    partial(block, gate=keras_nam.NAMSpatialAttention),
    partial(block, axis=1),  # Keras' own operations
]


@pytest.mark.parametrize(
    ("make", "second_order", "in_graph"),
    [
        *((block, mode, in_graph) for mode in MODES for in_graph in (False, True)),
        *((make, reverse_over_reverse, True) for make in OTHERS),
    ],
)
def test_second_derivatives(along, make, second_order, in_graph):
    truth = make(dtype="float64")
    true = central_difference(lambda x: gradient(truth, x), *along)
    run = partial(second_order, make())
    found = (tf.function(run) if in_graph else run)(*(tf.constant(v, "float32") for v in along))
    assert relative_error(found, true) < 1e-5


def test_second_derivatives_by_the_weights(along):
    def slopes(dtype):
        model = block(dtype=dtype)
        x = tf.constant(along[0], dtype)
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                value = objective(model, x)
            gradients = inner.gradient(value, variables)
            penalty = tf.add_n([tf.reduce_sum(gradient**2) for gradient in gradients])
        return outer.gradient(penalty, variables)

    for actual, true in zip(slopes("float32"), slopes("float64"), strict=True):
        assert relative_error(actual, true) < 1e-5


def third_derivative(model, x, direction):
    with tf.GradientTape() as tape:
        tape.watch(x)
        penalty = tf.reduce_sum(reverse_over_reverse(model, x, direction) ** 2)
    return tape.gradient(penalty, x)


def jacobian(model, x, vectorized):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        sums = tf.reduce_sum(tf.sin(model(x, training=True)), (0, 1, 2))
    return tape.jacobian(sums, x, experimental_use_pfor=vectorized)


@pytest.mark.parametrize(
    "derivative",
    [
        third_derivative,
        lambda model, x, _: jacobian(model, x, vectorized=False),
        lambda model, x, _: jacobian(model, x, vectorized=True),
    ],
)
def test_third_derivatives_and_jacobians(along, derivative):
    single, double = (
        derivative(block(dtype=dtype), *(tf.constant(value, dtype) for value in along))
        for dtype in ("float32", "float64")
    )
    assert relative_error(single, double) < 1e-5


@pytest.mark.parametrize("in_graph", [False, True])
def test_forward_mode(along, in_graph):
    model, truth = block(), block(dtype="float64")

    def tangent(x, direction):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            outputs = model(x, training=True)
        return accumulator.jvp(outputs)

    true = central_difference(lambda x: truth(x, training=True), *along)
    run = tf.function(tangent) if in_graph else tangent
    found = run(*(tf.constant(value, "float32") for value in along))
    assert relative_error(found, true) < 1e-5


@pytest.mark.parametrize("in_graph", [False, True])
def test_forward_mode_of_gamma_and_of_the_upstream_gradient(along, in_graph):
    """Tangents that the inputs do not have."""
    model = block()
    gamma = model.get_layer("gate").gamma.value
    x, direction = (tf.constant(value, "float32") for value in along)

    def tangents():
        with tf.autodiff.ForwardAccumulator(gamma, tf.ones_like(gamma)) as accumulator:
            outputs = model(x, training=True)
        by_gamma = accumulator.jvp(outputs)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x, training=True)
        upstream = tf.ones_like(outputs)
        with tf.autodiff.ForwardAccumulator(upstream, direction) as accumulator:
            slope = tape.gradient(outputs, x, output_gradients=upstream)
        return by_gamma, accumulator.jvp(slope)

    by_gamma, by_upstream = tf.function(tangents)() if in_graph else tangents()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = model(x, training=True)
        summed = tf.reduce_sum(outputs * direction)
    # The gradient is linear in the upstream gradient: its tangent is the gradient for the tangent.
    true = tape.gradient(outputs, x, output_gradients=direction)
    assert relative_error(by_upstream, true) < 1e-5
    # <J v, u> = <v, J^T u>
    back = tape.gradient(summed, gamma)
    assert float(tf.reduce_sum(by_gamma * direction)) == pytest.approx(
        float(tf.reduce_sum(back)), rel=1e-4
    )


def test_recomputed_and_taped_twice(along):
    model = block()
    x = tf.constant(along[0], "float32")
    with tf.GradientTape() as first, tf.GradientTape() as second:
        for tape in (first, second):
            tape.watch(x)
        value = objective(model, x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        recomputed = objective(tf.recompute_grad(model), x)
    truth = gradient(block(dtype="float64"), tf.constant(along[0]))
    taped = [(first, value), (second, value), (tape, recomputed)]
    for found in [tape.gradient(value, x) for tape, value in taped]:
        assert relative_error(found, truth) < 1e-5
