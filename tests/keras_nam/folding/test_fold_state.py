"""Folding copies the state that Keras saves, or names the layer that it cannot copy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_nam
from tests.support.backends import VERSION, arrays, tensorflow_only
from tests.support.networks.folded_models import (
    assert_folds,
    draw,
    images,
    model_of,
    normalizations,
)

FACTOR = 1.5


def adapted(layer, data):
    layer.adapt(data)
    return layer


WORDS = np.array([["a"], ["b"], ["c"], ["c"]])


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: adapted(layers.StringLookup(), WORDS), WORDS),
        pytest.param(
            lambda: adapted(layers.StringLookup(output_mode="tf_idf"), WORDS),
            WORDS,
            marks=pytest.mark.skipif(VERSION < (3, 14), reason="Keras itself cannot load it"),
        ),
        (lambda: adapted(layers.IntegerLookup(output_mode="count"), [[3], [5]]), [[5], [4]]),
        (lambda: adapted(layers.TextVectorization(), ["a b c", "b c"]), [["a d"], ["b"]]),
        (lambda: layers.Hashing(7), WORDS),
    ],
)
@tensorflow_only
def test_vocabularies(make, x):
    import tensorflow as tf

    x = tf.constant(x)
    inputs = keras.Input((1,), dtype=x.dtype.name)
    assert_folds(keras.Model(inputs, ops.cast(make()(inputs), "float32")), x, exact=True)


def test_adapted_numbers():
    bins = adapted(layers.Discretization(num_bins=4, output_mode="one_hot"), images(100, 1))
    assert_folds(model_of((1,), bins), images(5, 1, seed=2), exact=True)
    normalization = adapted(layers.Normalization(), 3 + 2 * images(50, 4))
    inputs = keras.Input((4,))
    assert_folds(keras.Model(inputs, normalization(inputs)), images(2, 4), exact=True)


def scaled(x, factor=FACTOR):
    return x * factor


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Lambda(lambda x: ops.tanh(x) * FACTOR),
        lambda: layers.Lambda(scaled, arguments={"factor": 2.5}),
        lambda: layers.Lambda(lambda x: x[:, :2], output_shape=(2,), mask=lambda x, mask: mask),
        lambda: layers.Dense(3, activation=lambda x: ops.tanh(x) * FACTOR),
        lambda: layers.Activation(scaled),
        lambda: layers.TimeDistributed(layers.Lambda(lambda x: x * 2)),
    ],
)
def test_functions_of_the_caller(make):
    shape = (5, 4) if isinstance(make(), layers.TimeDistributed) else (4,)
    assert_folds(model_of(shape, make()), images(2, *shape), exact=True)


class Scaled(layers.Layer):
    """Its factor is a weight, created with the layer; it is not registered with Keras."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x * self.factor

    def compute_output_shape(self, input_shape):
        return input_shape


class Branches(layers.Layer):
    """Holds layers in a list and a dictionary, which build in its call."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.branches = [layers.Dense(units), keras.Sequential([layers.Dense(units), Scaled()])]
        self.others = {"activation": layers.ReLU(), "norm": layers.BatchNormalization()}

    def call(self, x):
        x = sum(branch(x) for branch in self.branches)
        return self.others["norm"](self.others["activation"](x))


class WithAuxiliaryHead(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head, self.auxiliary = layers.Dense(3), layers.Dense(3)

    def call(self, x, training=False):
        return self.head(x) + (self.auxiliary(x) if training else 0)


class Subclassed(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.branches = layers.Dense(units), Branches(units)

    def call(self, x):
        return self.branches(self.hidden(x))

    def get_config(self):
        return {"units": self.units, "name": self.name}


@pytest.mark.parametrize(
    "make", [Scaled, Branches, lambda: Subclassed(5), lambda: layers.TimeDistributed(Scaled())]
)
def test_layers_of_the_caller(make):
    shape = (4,) if make in (Scaled, Branches) else (5, 4)
    model = model_of(shape, make())
    assert_folds(model, images(2, *shape), left=len(normalizations(model)), exact=True)


def test_a_part_that_only_a_training_call_builds():
    layer = WithAuxiliaryHead()
    model = model_of((4,), layer)
    model(images(2, 4), training=True)
    draw(model)
    copy = assert_folds(model, images(2, 4), exact=True).layers[1]
    for actual, expected in zip(copy.get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_stateful_recurrent_layer_begins_with_its_initial_states():
    inputs = keras.Input(batch_shape=(2, 5, 4))
    layer = layers.LSTM(3, stateful=True)
    model = draw(keras.Model(inputs, layer(inputs)))
    x = images(2, 5, 4)
    model(x)
    folded = keras_nam.fold(model)
    layer.reset_state()
    for _ in range(2):
        np.testing.assert_allclose(*arrays([folded(x), model(x)]), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_policies_layer_by_layer(policy):
    stack = layers.Dense(4), layers.Dense(4, dtype=policy), Branches(dtype="float32")
    folded = assert_folds(model_of((4,), *stack), images(2, 4), left=1, exact=True)
    assert [layer.dtype_policy for layer in folded.layers[1:]] == [x.dtype_policy for x in stack]


def test_arrays_are_not_shared():
    """Keras' JAX trainer gives the arrays of its model away."""
    model = model_of((4,), layers.Dense(4), layers.LayerNormalization())
    expected = model.get_weights()
    folded = keras_nam.fold(model)
    x = images(2, 4)
    folded.predict(x, verbose=0)
    for actual, weight in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(actual, weight)
    before = arrays(folded(x))[0]
    model.compile("sgd", "mse")
    model.fit(x, x, verbose=0)
    np.testing.assert_array_equal(arrays(folded(x))[0], before)
    assert not np.array_equal(model.get_weights()[0], expected[0])


class Forgetful(layers.Conv2D):
    """Its configuration, Keras' own, does not have its scale."""

    def __init__(self, filters, kernel_size, scale=1.0, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        self.scale = scale

    def call(self, x):
        return super().call(x) * self.scale


class Shifted(layers.Layer):
    """Its offset is not saved."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.offset = np.zeros(3)

    def call(self, x):
        return x + self.offset


def shifted():
    layer = Shifted()
    layer.offset = np.arange(3.0)
    return layer


class Private(layers.Layer):
    """Its factor is in no configuration, and neither is its table."""

    def __init__(self, factor=1.0, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self._factor, self.table = factor, {"offset": ops.convert_to_tensor(offset)}

    def call(self, x):
        return x * self._factor + self.table["offset"]

    def get_config(self):
        return {"name": self.name}


class ScaledModel(keras.Model):
    """Its configuration does not have its scale."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.scale, self.dense = units, scale, layers.Dense(units)

    def call(self, x):
        return self.dense(x) * self.scale

    def get_config(self):
        return {"units": self.units, "name": self.name}


def test_a_nested_model_that_was_compiled_and_trained():
    inner = ScaledModel(3)
    x = images(2, 4)
    inner.compile("sgd", "mse")
    inner.fit(x, x[:, :3], verbose=0)
    assert_folds(model_of((4,), inner), x, exact=True)


class Calling(layers.Layer):
    """Keras cannot know its configuration."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def replaced_part():
    layer = Branches()
    layer.others["activation"] = layers.LeakyReLU()
    return layer


def quantized_part():
    layer = Branches()
    layer.build((None, 6, 6, 3))
    layer(images(1, 6, 6, 3))
    layer.branches[0].quantize("int8")
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Forgetful(4, 1, scale=2.0), "Forgetful.*scale=2.0, and 1.0"),
        (shifted, "Shifted.*offset="),
        (lambda: Private(2.0), "Private.*_factor=2.0, and 1.0"),
        (lambda: Private(1.0, 3.0), "Private.*table="),
        (lambda: ScaledModel(4, 2.0), "ScaledModel.*scale=2.0, and 1.0"),
        (lambda: Calling(layers.Dense(2)), "Calling.*get_config"),
        (replaced_part, "Branches.*layers=.*LeakyReLU"),
        (quantized_part, "Branches.*dtype_policy="),
    ],
)
def test_layers_that_cannot_be_copied_are_named(make, message):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1)(inputs)
    layer = make()
    model = keras.Model(inputs, layer(x))
    with pytest.raises(ValueError, match=rf"(?s)`fold` cannot copy.*{layer.name}.*{message}"):
        keras_nam.fold(model)
