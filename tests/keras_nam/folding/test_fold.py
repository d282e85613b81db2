"""Folding: networks and layers against the unfolded model, and the numbers to the last bit."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_nam
from keras_nam.attention import ATTENTIONS
from keras_nam.fold import FoldedGate
from tests.support.backends import arrays, tensorflow_only
from tests.support.networks.folded_models import (
    assert_folds,
    draw,
    images,
    model_of,
    normalizations,
)
from tests.support.networks.small_models import assert_equal, created_under, values_of
from tests.support.weights.golden_modules import relative_error


def small(arch, **options):
    options = {"num_classes": 3, "input_shape": (16, 16, 3), **options}
    return draw(keras_nam.create_model(arch, **options))


def gated():
    """A network with both gates."""
    gates = keras_nam.BatchNormalization(), keras_nam.NAM(spatial=True, name="nam")
    end = layers.GlobalAveragePooling2D(), layers.Dense(3, dtype="float32")
    return model_of((8, 8, 3), layers.Conv2D(8, 3), *gates, *end)


@pytest.mark.parametrize("attention", ["", *ATTENTIONS])
def test_every_attention(attention):
    model = small(f"r18w4_{attention}" if attention else "r18w4")
    inside = [layer for layer in model.layers if type(layer) in (keras_nam.CBAM, keras_nam.BAM)]
    left = sum(len(normalizations(layer)) for layer in inside)
    folded = assert_folds(model, images(2, 16, 16, 3), left=left)
    assert folded.name == model.name
    assert [tensor.name for tensor in folded.inputs] == ["image"]
    assert folded.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("arch", "stem"),
    [
        ("mbv2w8_nam_spatial", "cifar"),
        pytest.param("r50w4_nam_full", "imagenet", marks=pytest.mark.slow),
    ],
)
def test_other_backbones_and_stems(arch, stem):
    assert_folds(small(arch, stem=stem, input_shape=(32, 32, 3)), images(2, 32, 32, 3))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((5,), layers.Dense(4)),
        ((6, 5), layers.Dense(4, use_bias=False)),
        ((6, 5), layers.Conv1D(4, 3)),
        ((6, 6, 4), layers.Conv2D(6, 3, strides=2, groups=2, use_bias=False)),
        ((4, 4, 4, 2), layers.Conv3D(3, 2)),
        ((6, 5), layers.DepthwiseConv1D(3, depth_multiplier=2)),
        ((6, 6, 3), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)),
        ((6, 5), layers.SeparableConv1D(4, 3, depth_multiplier=2)),
        ((6, 6, 3), layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="linear")),
        ((6, 5), layers.Conv1DTranspose(4, 3, strides=2)),
        ((6, 6, 3), layers.Conv2DTranspose(4, 3, strides=2)),
        ((3, 3, 3, 2), layers.Conv3DTranspose(4, 2)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("options", [{"epsilon": 0.3}, {"scale": False}, {"center": False}])
def test_every_linear_layer(shape, layer, options):
    layer = type(layer).from_config(layer.get_config())
    normalization = keras_nam.BatchNormalization(**options)
    folded = assert_folds(model_of(shape, layer, normalization), images(2, *shape))
    assert [copy.name for copy in folded.layers] == ["image", layer.name]


def statistics(layer):
    return (
        np.float64(keras.ops.convert_to_numpy(value))
        for value in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )


def test_convolution_to_the_last_bit():
    model = model_of((8, 8, 3), layers.Conv2D(16, 3), layers.BatchNormalization(epsilon=0.1))
    _, conv, normalization = model.layers
    kernel, bias = (np.float64(array) for array in conv.get_weights())
    gamma, beta, mean, variance = statistics(normalization)
    scale = gamma * (1 / np.sqrt(variance + 0.1))
    folded = keras_nam.fold(model).layers[1].get_weights()
    np.testing.assert_array_equal(folded[0], np.float32(kernel * scale))
    np.testing.assert_array_equal(folded[1], np.float32(beta + (bias - mean) * scale))


@pytest.mark.parametrize(
    ("cls", "options", "axis", "shape"),
    [
        (keras_nam.NAMChannelAttention, {}, -1, (6,)),
        (keras_nam.NAMChannelAttention, {"axis": 1}, 1, (4,)),
        (keras_nam.NAMSpatialAttention, {}, [1, 2], (4, 5, 1)),
        (keras_nam.NAMSpatialAttention, {"data_format": "channels_first"}, [2, 3], (1, 5, 6)),
    ],
)
def test_gate_to_the_last_bit(cls, options, axis, shape):
    gate = cls(epsilon=0.1, **options)
    folded = assert_folds(model_of((4, 5, 6), gate), 3 * images(2, 4, 5, 6)).layers[1]
    gamma, beta, mean, variance = statistics(gate)
    weights = np.abs(gamma) / np.abs(gamma).sum()
    scale = weights * gamma * (1 / np.sqrt(variance + 0.1))
    assert type(folded) is FoldedGate
    assert (folded.axis, folded.scale.shape) == (axis, shape)
    offset = weights * beta - scale * mean
    for actual, expected in zip(folded.get_weights(), (scale, offset), strict=True):
        np.testing.assert_array_equal(actual, np.float32(expected).reshape(shape))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("normalized", [1, -1])
def test_gate_after_a_normalization_of_any_axis(axis, normalized):
    """All axes have one length, so that statistics of a wrong one would go unnoticed."""
    normalization = keras_nam.BatchNormalization(axis=normalized)
    gate = keras_nam.NAMChannelAttention(axis=axis)
    model = model_of((4, 4, 4), layers.Conv2D(4, 1), normalization, gate)
    assert_folds(model, images(2, 4, 4, 4), left=0 if normalized == -1 else 1)


def test_data_format_of_the_layers_creation():
    with created_under(data_format="channels_first"):
        stack = [layers.BatchNormalization(axis=1), keras_nam.NAM(spatial=True, name="nam")]
        model = model_of((4, 4, 4), *stack, keras_nam.SqueezeExcite(2))
    gates = assert_folds(model, images(2, 4, 4, 4), left=1).layers[2:4]
    assert [gate.axis for gate in gates] == [1, [2, 3]]
    assert [gate.name for gate in gates] == ["nam_channel", "nam_spatial"]


@pytest.mark.parametrize("weighting", ["mean", "max", "unnormalized", "uniform", "constant"])
def test_other_weightings(weighting):
    gate = keras_nam.NAMChannelAttention(weighting=weighting, gain=2.0)
    assert_folds(model_of((5, 6, 8), gate), images(3, 5, 6, 8))


@pytest.mark.parametrize("branches", [False, True])
def test_gain_becomes_a_part_of_the_convolution_that_only_the_gate_uses(branches):
    inputs = keras.Input((4, 5, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 1)(inputs))
    outputs = keras_nam.NAMChannelAttention(gain=2.0)(x)
    model = draw(keras.Model(inputs, layers.Add()([outputs, x]) if branches else outputs))
    folded = assert_folds(model, images(3, 4, 5, 3))
    (gate,) = (layer for layer in folded.layers if type(layer) is FoldedGate)
    assert gate.gain == (2 if branches else 1)


def test_gate_whose_gammas_are_all_zero_halves():
    model = model_of((4, 4, 6), keras_nam.NAM(spatial=True))
    for gate in model.layers[1].gates.values():
        gate.gamma.assign(np.zeros(gate.gamma.shape))
    x = images(2, 4, 4, 6)
    np.testing.assert_array_equal(*arrays([assert_folds(model, x)(x), x / 4]))


@tensorflow_only
def test_gate_is_one_fused_operation():
    """A product and a sum are slower in ONNX Runtime."""
    import tensorflow as tf

    folded = keras_nam.fold(model_of((4, 5, 6), keras_nam.NAMChannelAttention()))
    graph = tf.function(folded).get_concrete_function(tf.TensorSpec((None, 4, 5, 6))).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("FusedBatchNormV3") == operations.count("Sigmoid") == 1


def test_result_is_another_model(tmp_path):
    model = gated()
    before, config = values_of(model), model.get_config()
    nodes = [len(layer._inbound_nodes + layer._outbound_nodes) for layer in model.layers]
    folded = keras_nam.fold(model)
    twice = keras_nam.fold(folded)
    assert_equal(twice, values_of(folded))
    assert twice.get_config() == folded.get_config()
    assert not folded.trainable_variables
    for variable in folded.variables:
        variable.assign(variable + 1)
    assert_equal(model, before)
    assert model.get_config() == config
    assert model.trainable
    assert nodes == [len(layer._inbound_nodes + layer._outbound_nodes) for layer in model.layers]

    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    x = images(2, 8, 8, 3)
    np.testing.assert_array_equal(*arrays([loaded(x), folded(x)]))
    assert not loaded.trainable_variables


@pytest.mark.parametrize(
    ("policy", "rounding"), [("mixed_float16", 2**-11), ("mixed_bfloat16", 2**-8)]
)
def test_mixed_precision_keeps_policies_and_float32_weights(policy, rounding):
    with created_under(policy=policy):
        model = gated()
    folded = keras_nam.fold(model)
    float32 = gated()
    assert_equal(folded, values_of(keras_nam.fold(float32)))
    assert {v.dtype for v in folded.variables} == {"float32"}
    assert {layer.dtype_policy.name for layer in folded.layers} == {policy, "float32"}
    x = images(2, 8, 8, 3)
    # Each layer's outputs are rounded; the mean over 36 positions reduces the errors.
    for computed in (model, folded):
        assert relative_error(computed(x), float32(x)) < rounding


@pytest.mark.parametrize("axis", [-1, [1, 2]])
@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_gate_is_computed_in_float32(axis, policy):
    half, single = (FoldedGate(axis, dtype=dtype) for dtype in (policy, "float32"))
    x = (50 * images(2, 4, 5, 6)).astype("float16")
    for gate in (half, single):
        gate.build(x.shape)
        gate.set_weights([images(*gate.scale.shape, seed=seed) for seed in (2, 3)])
    expected = keras.ops.cast(single(x.astype("float32")), "float16")
    np.testing.assert_array_equal(*arrays([half(x), expected]))
