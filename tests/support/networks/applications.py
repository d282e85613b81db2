"""Networks of keras.applications at 96 pixels, with random weights like a trained network's."""

import re

import keras
import numpy as np

from keras_nam.gates import gates_of
from tests.support import page

SIZE = 96
LARGEST = 10.0  # logit
BRANCH = 0.1  # of the scale of each block's last normalization
# Name -> the pattern of the normalizations that end a block, how many, how many there are in all.
BLOCKS = {
    "ResNet50": ("_3_bn$", 16, 53),
    "MobileNetV3Small": ("project_bn$", 11, 34),
    "EfficientNetV2B0": ("project_bn$", 21, 59),
    "small": ("project_bn$", 2, 7),
}


def images(count, seed=0):
    """Returns images of 0–255, uint8 [count, 96, 96, 3]: coloured patches, 3 to 12 a side."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        patches = rng.integers(0, 256, (*rng.integers(3, 13, 2), 3)).astype("float32")
        found.append(np.asarray(keras.ops.image.resize(patches, (SIZE, SIZE))))
    return np.stack(found).round().astype(np.uint8)


def draw_normalizations(model, seed=0):
    """Moves γ, β and the statistics of all normalizations at random, by some hundredths.

    Larger changes grow from layer to layer, and with them the rounding.
    """
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    gamma * rng.uniform(0.95, 1.05, gamma.shape),
                    beta + 0.03 * gamma * rng.normal(size=beta.shape),
                    mean + 0.03 * np.sqrt(variance) * rng.normal(size=mean.shape),
                    variance * rng.uniform(0.95, 1.05, variance.shape),
                ]
            )


def network(name, pictures):
    """Returns a network from images of 0–255 to 5 logits, whose classes are about balanced.

    Without the statistics of some pictures, the signal of a random network vanishes. The branches
    of its blocks add little, as after a training: else each block multiplies the rounding of the
    one before. Likewise no logit is larger than 10.
    """
    keras.utils.set_random_seed(0)
    if name == "small":
        model = small(pictures)
    else:
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(SIZE, SIZE, 3), classes=5, classifier_activation=None
        )
    parts = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momentum = parts[0].momentum
    for part in parts:
        if re.search(BLOCKS[name][0], part.name):
            part.gamma.assign(BRANCH * part.gamma)
    for part in parts:
        part.momentum = 0.0
    model(pictures.astype("float32"), training=True)
    for part in parts:
        part.momentum = momentum
    last = [layer for layer in model.layers if layer.weights][-1]
    kernel, bias = last.get_weights()
    logits = np.asarray(model(pictures, training=False))
    mean = logits.mean(0)
    factor = min(1.0, LARGEST / np.abs(logits - mean).max())
    last.set_weights([factor * kernel, factor * (bias - mean)])
    return model


def small(pictures):
    """Returns a small network of what the others are made of, and of random and adapted layers."""
    layers = keras.layers
    normalization = layers.Normalization()
    inputs = keras.Input((SIZE, SIZE, 3))
    x = normalization(layers.Rescaling(1 / 255)(layers.RandomFlip()(inputs)))
    normalization.adapt(pictures / 255)
    x = layers.Conv2D(8, 3, strides=4, use_bias=False)(x)
    x = hard_swish(layers.BatchNormalization()(x))
    for number in (1, 2):
        shortcut = x
        x = layers.Conv2D(24, 1, use_bias=False)(x)
        x = hard_swish(layers.BatchNormalization()(x))
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
        weights = layers.Conv2D(24, 1, activation="hard_sigmoid")(weights)
        x = layers.Multiply()([x, weights])
        x = layers.Conv2D(8, 1, use_bias=False)(x)
        x = layers.BatchNormalization(name=f"block{number}_project_bn")(x)
        x = layers.Add()([shortcut, x])
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(5)(x), name="small")


def hard_swish(x):
    return keras.layers.Multiply()([x, keras.layers.ReLU(6.0)(x + 3.0) * (1 / 6)])


def recipe():
    """Returns the page's function `with_nam`."""
    program = page.program("docs/in-your-model.md", "Pretrained networks")
    names = {}
    exec(program.partition("\nnetwork = ")[0], names)
    return names["with_nam"]


def with_nam(model, name):
    """Returns a copy of the network of a name, with gates that differ from 0.5."""
    copy = recipe()(model, BLOCKS[name][0])
    for gate in gates_of(copy):
        gate.gamma.assign(np.ones(gate.gamma.shape))  # as a layer begins, and not the recipe's
    draw_normalizations(copy)
    return copy
