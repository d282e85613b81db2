"""NAM as a Keras layer: formulas, formats, precision, serialization, errors."""

import keras
import numpy as np
import pytest

import keras_nam
from keras_nam import NAM, NAMChannelAttention, NAMSpatialAttention
from tests.support.backends import arrays, training_step
from tests.support.networks.small_models import created_under, needs_renorm
from tests.support.weights.golden_modules import relative_error

SHAPE = (4, 6, 5, 8)
LAYERS = {
    "channel": NAMChannelAttention,
    "spatial": NAMSpatialAttention,
    "both": lambda **options: NAM(channel=True, spatial=True, **options),
}


def images(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.5, shape).astype("float32")


def built(kind, shape=SHAPE, **options):
    """A layer with random weights; some gammas are negative."""
    layer = LAYERS[kind](**options)
    layer.build(shape)
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        is_variance = "variance" in weight.name
        draw = rng.uniform(0.5, 1.5, weight.shape) if is_variance else rng.normal(size=weight.shape)
        weight.assign(draw)
    return layer


def formula(x, gamma, beta, mean, variance, epsilon=1e-5):
    """The paper's equations 1 and 2, in float64."""
    x, gamma, beta, mean, variance = map(np.float64, (x, gamma, beta, mean, variance))
    weights = np.abs(gamma) / np.abs(gamma).sum()
    normalized = gamma * (x - mean) / np.sqrt(variance + epsilon) + beta
    return x / (1 + np.exp(-weights * normalized))


def test_formulas():
    both = built("both")
    channel, spatial = both.gates["channel"], both.gates["spatial"]
    expected = formula(images(), *channel.get_weights())
    assert relative_error(channel(images()), expected) < 1e-6
    at_positions = [np.reshape(w, (*SHAPE[1:3], 1)) for w in spatial.get_weights()]
    assert relative_error(spatial(images()), formula(images(), *at_positions)) < 1e-6
    assert relative_error(both(images()), formula(expected, *at_positions)) < 1e-6
    for name, size in (("channel", 8), ("spatial", 30)):
        gamma, weights = arrays([both.gates[name].gamma, both.gate_weights[name]])
        assert weights.shape == (size,)
        np.testing.assert_allclose(weights, abs(gamma) / abs(gamma).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    {
        "sum": [0.5, 0, 0.25, 0.25],
        "mean": [2, 0, 1, 1],
        "max": [1, 0, 0.5, 0.5],
        "unnormalized": [2, 0, 1, 1],
        "uniform": [0.25] * 4,
        "constant": [0] * 4,
    }.items(),
)
def test_weightings(weighting, expected):
    layer = NAMChannelAttention(weighting=weighting)
    layer.build((None, 3, 3, 4))
    layer.gamma.assign([-2, 0, 1, 1])
    np.testing.assert_array_equal(*arrays([layer.gate_weights]), expected)
    x = images((2, 3, 3, 4))
    gate = 1 / (1 + np.exp(-np.float64(expected) * [-2, 0, 1, 1] * x / np.sqrt(1 + 1e-5)))
    np.testing.assert_allclose(*arrays([layer(x)]), x * gate, rtol=1e-5)
    inputs = keras.Input(x.shape[1:])
    predicted = keras.Model(inputs, layer(inputs)).predict(x, verbose=0)
    np.testing.assert_allclose(predicted, x * gate, rtol=1e-5)


@pytest.mark.parametrize("kind", ["channel", "spatial"])
def test_gain_is_a_factor_of_outputs_and_gradients(kind):
    ones = np.ones(SHAPE, "float32")
    once, twice = (training_step(built(kind, gain=gain), images(), ones) for gain in (1.0, 2.0))
    for single, double in zip(once, twice, strict=True):
        np.testing.assert_array_equal(2 * np.asarray(single), double)
    neutral = built(kind, gain=2.0, weighting="constant")
    np.testing.assert_array_equal(*arrays([neutral(images())]), images())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("training", [False, True])
def test_channels_first_is_channels_last_transposed(kind, training):
    shape = (SHAPE[0], SHAPE[3], *SHAPE[1:3])
    last = built(kind, data_format="channels_last")
    first = built(kind, shape, data_format="channels_first")
    outputs = first(images().transpose(0, 3, 1, 2), training=training)
    outputs = keras.ops.transpose(outputs, (0, 2, 3, 1))
    # In training one is the fused operation and the other is not.
    assert relative_error(outputs, last(images(), training=training)) < 1e-5


@pytest.mark.parametrize("gate_gradient", [False, True])
def test_no_nan_when_every_gamma_is_zero(gate_gradient):
    layer = built("both", gate_gradient=gate_gradient)
    for gate in layer.gates.values():
        gate.gamma.assign(np.zeros(gate.gamma.shape))
        gate.beta.assign(np.zeros(gate.beta.shape))
    _, *gradients = training_step(layer, images(), 1e6)
    np.testing.assert_allclose(*arrays([layer(images())]), images() / 4, rtol=1e-6)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_detached_weights_change_the_gamma_gradient_only():
    gradients = {}
    for gate_gradient in (False, True):
        layer = built("channel", gate_gradient=gate_gradient)
        gradients[gate_gradient] = training_step(layer, images(), images(seed=2))[2:]
    assert relative_error(gradients[False][0], gradients[True][0]) > 0.01
    np.testing.assert_array_equal(gradients[False][1], gradients[True][1])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_gate_is_float32_under_every_policy(policy):
    layer, reference = (NAMChannelAttention(dtype=dtype) for dtype in (policy, "float32"))
    x = keras.ops.cast(images((2, 3, 3, 2048)), layer.compute_dtype)
    for gate in (layer, reference):
        gate.build(x.shape)
        gate.gamma.assign(np.where(np.arange(2048) % 2, 25, 75))  # the sum overflows in float16
    outputs = layer(x, training=True)
    expected = reference(keras.ops.cast(x, "float32"), training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    # The float32 answer, rounded once. A gate in half precision gives x / 2 nearly everywhere.
    assert fraction_that_differs(outputs, keras.ops.cast(expected, outputs.dtype)) < 1e-3
    if "bfloat16" not in policy:  # bfloat16 rounds most of these outputs to x / 2 themselves
        assert fraction_that_differs(outputs, x * 0.5) > 0.05


def fraction_that_differs(a, b):
    return np.mean(np.not_equal(*arrays([keras.ops.cast(x, "float32") for x in (a, b)])))


def test_gamma_regularizer_is_the_penalty_of_equation_4():
    layer = built("both", gamma_regularizer=keras.regularizers.L1(0.01))
    gammas = arrays([gate.gamma for gate in layer.gates.values()])
    expected = 0.01 * sum(np.abs(gamma).sum() for gamma in gammas)
    np.testing.assert_allclose(*arrays([sum(layer.losses)]), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_in_a_saved_model_of_unknown_batch_size(kind, tmp_path):
    options = {"gamma_regularizer": "l1", "epsilon": 1e-4, "momentum": 0.7, "weighting": "max"}
    options["gain"] = 2.0
    layer = built(kind, gate_gradient=False, **options)
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, *SHAPE[1:])
    assert model.predict(images((7, *SHAPE[1:])), verbose=0).shape == (7, *SHAPE[1:])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*arrays([loaded(images()), model(images())]))
    assert loaded.layers[1].get_config() == layer.get_config()


def test_channel_attention_takes_any_image_size():
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, NAMChannelAttention()(inputs))
    assert model(images((2, 9, 3, 8))).shape == (2, 9, 3, 8)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [((8,), "rank"), ((None, 4, 4, None), "must be defined")],
)
def test_shapes_that_are_refused(kind, shape, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: input_shape="):
        LAYERS[kind]().build(shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NAM(channel=False), "Received: channel=False, spatial=False"),
        (lambda: NAMChannelAttention(scale=False), "Received: scale=False"),
        pytest.param(lambda: NAMChannelAttention(renorm=True), "renorm=True", marks=needs_renorm),
        (lambda: NAMSpatialAttention(data_format="NCHW"), "Received: data_format=NCHW"),
        (lambda: NAMChannelAttention(weighting="l2"), "'sum', 'mean'.*weighting='l2'"),
        (lambda: NAMSpatialAttention().build((None, None, 4, 8)), "height and width"),
    ],
)
def test_arguments_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_layer_keeps_the_data_format_under_which_it_was_made():
    with created_under(data_format="channels_first"):
        layers = [row.layer() for row in keras_nam.attention.ATTENTIONS.values()]
    for layer in layers:
        config = layer.get_config()
        assert config.get("data_format") == "channels_first" or config.get("axis") == 1
