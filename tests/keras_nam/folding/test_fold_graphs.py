"""Folding in graphs of every form: where it must not fold, and refused models."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_nam
from tests.support.backends import arrays
from tests.support.networks.folded_models import (
    TOLERANCE,
    assert_folds,
    draw,
    images,
    model_of,
    normalizations,
)
from tests.support.networks.small_models import assert_equal, needs_renorm, values_of
from tests.support.weights.golden_modules import relative_error


class OwnNormalization(layers.BatchNormalization):
    pass


BN = layers.BatchNormalization


def convolution(filters=3, **options):
    return layers.Conv2D(filters, 1, **options)


def two_consumers(inputs):
    x = convolution()(inputs)
    return layers.Add()([x, BN()(x)])


def convolution_is_an_output(inputs):
    x = convolution()(inputs)
    return [BN()(x), x]


def shared_convolution(inputs):
    shared = convolution()
    return shared(BN()(shared(inputs)))


def shared_normalization(inputs):
    shared = BN()
    return shared(convolution()(shared(convolution()(inputs))))


def convolution_shared_with_a_nested_model(inputs):
    shared = convolution()
    within = keras.Input((6, 6, 3))
    nested = keras.Model(within, BN()(shared(within)))
    return nested(shared(inputs))


@pytest.mark.parametrize(
    "outputs",
    [
        two_consumers,
        convolution_is_an_output,
        shared_convolution,
        shared_normalization,
        convolution_shared_with_a_nested_model,
        lambda x: BN()(convolution(activation="relu")(x)),
        lambda x: BN()(layers.ReLU()(convolution()(x))),
        lambda x: convolution()(BN()(x)),
        lambda x: BN(axis=1)(convolution()(x)),
        pytest.param(lambda x: BN(renorm=True)(convolution()(x)), marks=needs_renorm),
        lambda x: OwnNormalization()(convolution()(x)),
        lambda x: BN(dtype="float64")(convolution()(x)),
    ],
)
def test_other_normalizations_are_left(outputs):
    inputs = keras.Input((6, 6, 3))
    model = draw(keras.Model(inputs, outputs(inputs)))
    folded = assert_folds(model, images(2, 6, 6, 3), left=1, exact=True)
    assert_equal(folded, values_of(model))


@pytest.mark.parametrize(
    "change", [lambda dense: dense.enable_lora(2), lambda dense: dense.quantize("int8")]
)
def test_kernels_of_several_weights_are_left(change):
    model = model_of((6,), layers.Dense(4), layers.BatchNormalization())
    change(model.layers[1])
    assert_folds(model, images(2, 6), left=1)


def branches():
    """Two inputs and two outputs, lists, keywords, operations, a shared nested model."""
    image, mask = keras.Input((8, 8, 3), name="image"), keras.Input((8, 8, 1), name="mask")
    within = keras.Input((8, 8, 4))
    x = keras_nam.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(within))
    nested = keras.Model(within, layers.Add()([x, keras_nam.NAMChannelAttention()(x)]))
    stack = keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization(), layers.ReLU()])
    x = layers.Conv2D(4, 1)(inputs=image)
    x = layers.BatchNormalization()(inputs=x, training=False)
    x = stack(nested(nested(x * mask[..., :1] + 1.0)))
    x = layers.Concatenate(axis=-1)([x, keras.ops.mean(mask, axis=-1, keepdims=True)])
    x = layers.MultiHeadAttention(2, 3)(query=x, value=x)
    outputs = {"map": x, "mean": layers.Dense(2)(layers.Flatten()(x))}
    return draw(keras.Model({"image": image, "mask": mask}, outputs, name="branches"))


def test_graph_with_branches():
    model = branches()
    x = {"image": images(2, 8, 8, 3), "mask": images(2, 8, 8, 1)}
    folded = assert_folds(model, x)
    assert folded.output_shape == model.output_shape
    assert list(folded.input) == ["image", "mask"]
    assert sorted(folded.output) == ["map", "mean"]


def test_unused_inputs_and_first_outputs():
    images_in, unused = keras.Input((6, 6, 3)), keras.Input((2,))
    _, half = keras.ops.split(BN()(convolution(4)(images_in)), 2, axis=-1)
    within = keras.Input((6, 6, 2))
    nested = keras.Model(within, [layers.ReLU()(within), BN()(convolution()(within))])
    _, state = layers.GRU(4, return_state=True)(layers.Reshape((36, 3))(nested(half)[1]))
    assert_folds(draw(keras.Model([images_in, unused], state)), [images(2, 6, 6, 3), images(2, 2)])


def sequential():
    model = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()])
    model.build((None, 8, 8, 3))
    return model


def sequential_in_sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), sequential(), layers.Dense(2)])


def functional_subclass():
    @keras.saving.register_keras_serializable("test_fold")
    class Trained(keras.Model):
        def train_step(self, data):
            raise NotImplementedError

    inputs = keras.Input((8, 8, 3))
    return Trained(inputs, sequential()(inputs))


@pytest.mark.parametrize("build", [sequential, sequential_in_sequential, functional_subclass])
def test_other_graphs(build, tmp_path):
    model = draw(build())
    x = images(3, 8, 8, 3)
    folded = assert_folds(model, x)
    assert (folded.name, folded.output_shape) == (model.name, model.output_shape)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(*arrays([loaded(x), folded(x)]))


def test_normalization_called_for_training_is_folded_too():
    inputs = keras.Input((8, 8, 3))
    x = keras_nam.BatchNormalization()(layers.Conv2D(4, 1)(inputs), training=True)
    model = draw(keras.Model(inputs, keras_nam.NAM()(x, training=True)))
    folded = keras_nam.fold(model)
    assert not normalizations(folded)
    x = images(2, 8, 8, 3)
    model.trainable = False
    assert relative_error(folded(x), model(x)) < TOLERANCE


def test_part_of_a_larger_model():
    """Calls outside the given graph do not count, nor do its inputs have to be its first."""
    inputs = keras.Input((8, 8, 3))
    first = layers.ReLU()(inputs)
    conv = layers.Conv2D(4, 1)
    outputs = layers.BatchNormalization()(conv(first))
    keras.Model(inputs, conv(first))
    assert_folds(draw(keras.Model(inputs, outputs)), images(2, 8, 8, 3))
    assert_folds(draw(keras.Model(first, outputs)), images(2, 8, 8, 3))


class Doubling(keras.Model):
    def call(self, inputs):
        return 2 * super().call(inputs)


def doubling():
    inputs = keras.Input((4,))
    return Doubling(inputs, layers.Dense(2)(inputs))


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (doubling, "a Doubling"),
        (lambda: keras.Sequential([layers.Dense(2)]), "a Sequential that is not built"),
        (lambda: layers.Dense(2), "a Dense that is not built"),
        (lambda: None, "a NoneType"),
    ],
)
def test_other_objects_are_refused(make, received):
    with pytest.raises(ValueError, match=rf"functional model, .* Received: {received}$"):
        keras_nam.fold(make())


class Augment(layers.Layer):
    """Its call takes no `training`, and Keras hands it to the inner layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flip = layers.RandomFlip()

    def call(self, x):
        return self.flip(x)


@pytest.mark.parametrize("options", [{}, {"training": True}])
@pytest.mark.parametrize("augmentation", [layers.RandomFlip, Augment])
def test_random_layers_are_not_active(options, augmentation):
    inputs = keras.Input((8, 8, 3))
    x = augmentation()(inputs, **(options if augmentation is layers.RandomFlip else {}))
    x = keras_nam.NAM()(keras_nam.BatchNormalization()(layers.Conv2D(4, 3)(x)))
    x = layers.Dropout(0.5)(layers.Flatten()(x), **options)
    model = draw(keras.Model(inputs, layers.Dense(2)(x)))
    folded = keras_nam.fold(model)
    x = images(4, 8, 8, 3)
    expected = arrays(model(x, training=False))[0]
    for _ in range(3):
        assert relative_error(folded(x), expected) < TOLERANCE
