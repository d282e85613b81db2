"""Keras classifiers of an image's mean colour, whose answers are known."""

import keras
import numpy as np

import keras_nam

NAMES = ["blue", "green", "red"]
COLOURS = np.array([[40, 60, 220], [50, 200, 70], [210, 50, 40]])


def build(size=(16, 16), activation=None, rescaling=True):
    """Returns a built functional classifier of three colours with a NAM gate.

    Args:
        size: Height and width, or `None` where any is taken.
        activation: Of the last layer.
        rescaling: Whether the model takes 0–255; else it takes 0–1.
    """
    image = keras.Input((*size, 3), name="photo")
    x = keras.layers.Rescaling(1 / 255)(image) if rescaling else image
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = keras_nam.BatchNormalization(name="normalization")(x)
    x = keras_nam.NAMChannelAttention(name="gate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(3, activation=activation, name="scores")(x)
    return trained(keras.Model(image, x, name="colours"))


def trained(model):
    """Sets weights of a classifier of colours: the layers `conv`, `normalization`, `scores`."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.02, (3, 3, 3, 8))
    kernel[1, 1, :, :3] += np.eye(3)
    model.get_layer("conv").set_weights([kernel])
    normalization = model.get_layer("normalization")
    normalization.moving_mean.assign(rng.normal(0, 0.1, 8))
    normalization.moving_variance.assign(rng.uniform(0.5, 1.5, 8))
    head = np.zeros((8, 3))
    head[:3] = 12 * np.eye(3)[:, ::-1]
    model.get_layer("scores").set_weights([head, np.array([0.1, 0.2, 0.3])])
    return model


def images(count=48, size=(16, 16), seed=0):
    """Returns images, uint8, and labels: the classes in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    noise = rng.integers(-30, 31, (count, *size, 3))
    return (COLOURS[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels


OWN_LAYERS = """
import keras


class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")
        self.normalization = keras.layers.BatchNormalization(name="normalization")
        self.doubled = Doubled()
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.scores = keras.layers.Dense(3, name="scores")

    def call(self, inputs, training=False):
        x = self.normalization(self.conv(inputs / 255), training=training)
        return self.scores(self.pool(self.doubled(x)))
"""
