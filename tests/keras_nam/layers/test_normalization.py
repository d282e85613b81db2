"""The fused path against Keras' own layer, and when it is taken."""

import keras
import numpy as np
import pytest

import keras_nam
from keras_nam import BatchNormalization
from tests.support.backends import BACKEND, arrays, training_step
from tests.support.networks.small_models import needs_renorm
from tests.support.weights.golden_modules import relative_error

SHAPE = (6, 5, 7, 12)


def pair(shape=SHAPE, **options):
    """Returns our layer and Keras', built, with the same weights drawn at random."""
    rng = np.random.default_rng(0)
    layers = [cls(**options) for cls in (BatchNormalization, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.build(shape)
    weights = [rng.uniform(0.5, 1.5, w.shape) for w in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def images(shape=SHAPE, seed=1):
    return np.random.default_rng(seed).normal(0.5, 2.0, shape).astype("float32")


def train(layer, x, upstream):
    """Returns outputs, gradients and the new statistics of a training step."""
    return [*training_step(layer, x, upstream), *arrays(layer.non_trainable_variables)]


def is_fused(layer, shape=SHAPE, dtype="float32", training=True):
    """Whether the traced layer holds TensorFlow's fused operation."""
    if BACKEND != "tensorflow":
        return False
    import tensorflow as tf

    traced = tf.function(lambda x: layer(x, training=training))
    graph = traced.get_concrete_function(tf.TensorSpec((None, *shape[1:]), dtype)).graph
    return any(operation.type == "FusedBatchNormV3" for operation in graph.get_operations())


def assert_equals_stock(shape, tolerance, **options):
    ours, stock = pair(shape, **options)
    assert relative_error(ours(images(shape)), stock(images(shape))) < tolerance
    x, upstream = images(shape), images(shape, seed=2)
    for actual, expected in zip(train(ours, x, upstream), train(stock, x, upstream), strict=True):
        assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}, {"momentum": 0.5}])
def test_fused_equals_stock(options):
    assert is_fused(pair(**options)[0]) == (BACKEND == "tensorflow")
    assert_equals_stock(SHAPE, 1e-5, **options)  # float32 rounding of sums over 210 values


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 8), {}),
        ((4, 5, 8), {}),
        ((4, 5, 8, 3), {"axis": 1}),
        pytest.param((4, 5, 6, 3), {"renorm": True}, marks=needs_renorm),
        ((2, 3, 4, 5, 6), {}),
    ],
)
def test_elsewhere_it_is_keras(shape, options):
    assert not is_fused(pair(shape, **options)[0], shape)
    # The term for exact second derivatives adds zeros to the gradient, in another order.
    assert_equals_stock(shape, 1e-6, **options)


def test_moving_variance_is_the_biased_estimate():
    x = images((2, 2, 1, 3))
    layer = BatchNormalization(momentum=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(*arrays([layer.moving_variance]), x.var((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("layer", [BatchNormalization, keras_nam.NAMChannelAttention])
@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_half_policies_train(layer, policy):
    made, reference = layer(dtype=policy), layer()
    x = images()
    outputs, expected = made(x, training=True), reference(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy
    # Half types keep 8 to 11 bits.
    assert relative_error(keras.ops.cast(outputs, "float32"), expected) < 2e-2
    moved = [keras.ops.cast(variable.value, "float32") for variable in made.non_trainable_variables]
    for actual, expected in zip(moved, reference.non_trainable_variables, strict=True):
        assert relative_error(actual, expected) < 2e-2


def test_masks_integers_and_float64_are_keras():
    mask = np.random.default_rng(3).random(SHAPE[:-1]) < 0.7
    outputs = arrays([layer(images(), training=True, mask=mask) for layer in pair()])
    np.testing.assert_array_equal(*outputs)
    x = np.random.default_rng(3).integers(0, 256, SHAPE, "uint8")
    np.testing.assert_array_equal(*arrays([layer(x, training=True) for layer in pair()]))
    x = images().astype("float64")
    outputs = arrays([layer(x, training=True) for layer in pair(dtype="float64")])
    assert outputs[0].dtype == "float64"
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_float32_statistics(policy):
    ours, stock = pair(dtype=policy)
    x = images() * 100
    outputs, expected = ours(x, training=True), stock(x, training=True)
    assert outputs.dtype == expected.dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == ours.compute_dtype
    assert {w.dtype for w in ours.variables} == {"float32"}
    # The inputs are rounded alike to the half type; the sums are float32.
    assert relative_error(ours.moving_variance, stock.moving_variance) < 1e-5
    assert relative_error(ours.moving_mean, stock.moving_mean) < 1e-5


def test_frozen_layer_runs_in_inference_mode():
    ours, stock = pair()
    ours.trainable = stock.trainable = False
    before = ours.get_weights()
    assert relative_error(ours(images(), training=True), stock(images(), training=True)) < 1e-5
    for old, new in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_config_and_weights_equal_keras():
    ours, stock = pair(gamma_regularizer="l1", epsilon=1e-5)
    stock_config = {**stock.get_config(), "name": ours.name}
    assert ours.get_config() == stock_config
    assert [w.name for w in ours.weights] == [w.name for w in stock.weights]
