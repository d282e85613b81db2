"""Folding: every arch and layer against the unfolded model, and the numbers to the last bit."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_nam
from keras_nam.fold import FoldedGate
from keras_nam.models import parse_arch
from tests.support.backends import arrays, tensorflow_only
from tests.support.folded_models import assert_folds, draw, images, model_of, normalizations
from tests.support.golden_modules import relative_error
from tests.support.small_models import assert_equal, values_of

WIDTHS = {"r18": 4, "r34": 4, "r50": 4, "r101": 4, "r152": 4, "mbv2": 8}


def small(arch, **options):
    backbone, _, attention = parse_arch(arch)
    name = f"{backbone}w{WIDTHS[backbone]}" + (f"_{attention}" if attention else "")
    options = {"num_classes": 3, "input_shape": (16, 16, 3), **options}
    return draw(keras_nam.create_model(name, **options))


def archs():
    """Returns every arch; the deep ones, which have but more blocks, are slow."""
    deep = ("r34", "r101", "r152")
    return [
        pytest.param(arch, marks=pytest.mark.slow) if arch.split("_")[0] in deep else arch
        for arch in keras_nam.list_archs()
    ]


@pytest.mark.parametrize("arch", archs())
def test_every_arch(arch):
    model = small(arch)
    inside = [layer for layer in model.layers if type(layer) in (keras_nam.CBAM, keras_nam.BAM)]
    left = sum(len(normalizations(layer)) for layer in inside)
    folded = assert_folds(model, images(2, 16, 16, 3), left=left)
    assert len(normalizations(model)) > left
    assert folded.name == model.name
    assert [tensor.name for tensor in folded.inputs] == ["image"]
    assert folded.output_shape == (None, 3)


@pytest.mark.parametrize("arch", ["r18_nam", "r50_nam_full", "mbv2_nam_spatial"])
def test_imagenet_stem(arch):
    model = small(arch, stem="imagenet", input_shape=(64, 64, 3))
    assert_folds(model, images(1, 64, 64, 3))


def test_parameters_of_r50_nam():
    model = keras_nam.create_model("r50_nam")
    convolutions = sum(layer.filters for layer in model.layers if type(layer) is layers.Conv2D)
    gates = 4 * 64 * (3 * 1 + 4 * 2 + 6 * 4 + 3 * 8)
    # A bias for the normalization's four numbers; a gate's scale and offset for its four.
    expected = model.count_params() - 3 * convolutions - 2 * gates
    assert keras_nam.fold(model).count_params() == expected == 23_708_900


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
@pytest.mark.parametrize(
    "normalization",
    [
        lambda: layers.BatchNormalization(epsilon=0.3),
        lambda: keras_nam.BatchNormalization(scale=False),
        lambda: keras_nam.BatchNormalization(center=False, epsilon=0.1),
    ],
)
def test_every_linear_layer(shape, layer, normalization):
    layer = type(layer).from_config(layer.get_config())
    folded = assert_folds(model_of(shape, layer, normalization()), images(2, *shape))
    assert [copy.name for copy in folded.layers] == ["image", layer.name]


def statistics(layer):
    return (
        np.float64(keras.ops.convert_to_numpy(value))
        for value in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )


def test_convolution_to_the_last_bit():
    model = model_of((8, 8, 3), layers.Conv2D(16, 3), keras_nam.BatchNormalization(epsilon=0.1))
    _, conv, normalization = model.layers
    kernel, bias = (np.float64(array) for array in conv.get_weights())
    gamma, beta, mean, variance = statistics(normalization)
    scale = gamma * (1 / np.sqrt(variance + 0.1))
    folded = keras_nam.fold(model).layers[1].get_weights()
    np.testing.assert_array_equal(folded[0], np.float32(kernel * scale))
    np.testing.assert_array_equal(folded[1], np.float32(beta + (bias - mean) * scale))


@pytest.mark.parametrize(
    ("gate", "axis", "shape"),
    [
        (keras_nam.NAMChannelAttention(epsilon=0.1), -1, (6,)),
        (keras_nam.NAMChannelAttention(axis=1, epsilon=0.1), 1, (4,)),
        (keras_nam.NAMSpatialAttention(epsilon=0.1), [1, 2], (4, 5, 1)),
        (
            keras_nam.NAMSpatialAttention(epsilon=0.1, data_format="channels_first"),
            [2, 3],
            (1, 5, 6),
        ),
    ],
)
def test_gate_to_the_last_bit(gate, axis, shape):
    gate = type(gate).from_config(gate.get_config())
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
@pytest.mark.parametrize("synchronized", [False, pytest.param(True, marks=tensorflow_only)])
def test_gate_after_a_normalization_of_any_axis(axis, normalized, synchronized):
    """All axes have one length, so that statistics of a wrong one would go unnoticed."""
    model = model_of(
        (4, 4, 4),
        layers.Conv2D(4, 1),
        keras_nam.BatchNormalization(axis=normalized, synchronized=synchronized),
        keras_nam.NAMChannelAttention(axis=axis, synchronized=synchronized),
    )
    assert_folds(model, images(2, 4, 4, 4), left=0 if normalized == -1 else 1)


def test_data_format_is_that_of_the_layers_creation():
    keras.config.set_image_data_format("channels_first")
    try:
        stack = [layers.BatchNormalization(axis=1), keras_nam.NAM(spatial=True)]
        model = model_of((4, 4, 4), *stack, keras_nam.SqueezeExcite(2))
    finally:
        keras.config.set_image_data_format("channels_last")
    folded = assert_folds(model, images(2, 4, 4, 4), left=1)
    assert [layer.axis for layer in folded.layers[2:4]] == [1, [2, 3]]


@pytest.mark.parametrize("weighting", ["max", "unnormalized", "uniform", "constant"])
def test_other_weightings(weighting):
    gate = keras_nam.NAMChannelAttention(weighting=weighting, name="gate")
    model = model_of((5, 6, 8), gate)
    assert_folds(model, images(3, 5, 6, 8))


def test_gate_whose_gammas_are_all_zero_halves():
    model = model_of((4, 4, 6), keras_nam.NAM(spatial=True))
    for gate in model.layers[1].gates.values():
        gate.gamma.assign(np.zeros(gate.gamma.shape))
    x = images(2, 4, 4, 6)
    np.testing.assert_array_equal(*arrays([assert_folds(model, x)(x), x / 4]))


def test_nam_becomes_two_gates():
    model = model_of((4, 4, 6), keras_nam.NAM(spatial=True, name="nam"))
    folded = assert_folds(model, 3 * images(2, 4, 4, 6))
    assert [layer.name for layer in folded.layers[1:]] == ["nam_channel", "nam_spatial"]


@tensorflow_only
def test_gate_is_one_fused_operation():
    """In a model without other normalizations: a product and a sum are slower in ONNX Runtime."""
    import tensorflow as tf

    folded = keras_nam.fold(small("r18_nam"))
    graph = tf.function(folded).get_concrete_function(tf.TensorSpec((None, 16, 16, 3))).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("FusedBatchNormV3") == operations.count("Sigmoid") == 8


def test_result_is_a_model_of_its_own(tmp_path):
    model = small("r18_nam_full")
    before, config = values_of(model), model.get_config()
    nodes = [len(layer._inbound_nodes + layer._outbound_nodes) for layer in model.layers]
    folded = keras_nam.fold(model)
    assert not folded.trainable_variables
    for variable in folded.variables:
        variable.assign(variable + 1)
    assert_equal(model, before)
    assert model.get_config() == config
    assert model.trainable
    assert nodes == [len(layer._inbound_nodes + layer._outbound_nodes) for layer in model.layers]

    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(*arrays([loaded(x), folded(x)]))
    assert not loaded.trainable_variables


@pytest.mark.parametrize("arch", ["r18_nam_full", "mbv2_bam"])
def test_folding_twice_is_folding_once(arch):
    once = keras_nam.fold(small(arch))
    twice = keras_nam.fold(once)
    assert_equal(twice, values_of(once))
    assert twice.get_config() == once.get_config()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_policies_and_float32_weights(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = small("r18_nam_full")
    finally:
        keras.config.set_dtype_policy("float32")
    folded = keras_nam.fold(model)
    float32 = small("r18_nam_full")
    assert_equal(folded, values_of(keras_nam.fold(float32)))
    assert {v.dtype for v in folded.variables} == {"float32"}
    assert {layer.dtype_policy.name for layer in folded.layers} == {policy, "float32"}
    x = images(2, 16, 16, 3)
    # Both are as far from float32 as the half type's rounding of each layer's outputs takes them.
    error = relative_error(model(x), float32(x))
    assert relative_error(folded(x), float32(x)) < 3 * error


@pytest.mark.parametrize("axis", [-1, [1, 2]])
def test_gate_is_computed_in_float32(axis):
    half, single = (FoldedGate(axis, dtype=dtype) for dtype in ("mixed_float16", "float32"))
    x = (50 * images(2, 4, 5, 6)).astype("float16")
    for gate in (half, single):
        gate.build(x.shape)
        gate.set_weights([images(*gate.scale.shape, seed=seed) for seed in (2, 3)])
    expected = keras.ops.cast(single(x.astype("float32")), "float16")
    np.testing.assert_array_equal(*arrays([half(x), expected]))
