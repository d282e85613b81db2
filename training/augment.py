"""Augmentations: functions of a batch of float32 images [B, H, W, C] in 0–255 and a seed.

Each draws for every image by itself, from a stateless seed [2]: the same seed, the same draws.
"""

import json
import math
from functools import partial

import tensorflow as tf

from training.cli import InputError
from training.recipes import nearest


def random_crop(images, seed, padding=4, mode="constant"):
    """Pads every side, by 0 or by reflection, and crops the old size at a uniform offset."""
    batch, height, width, _ = images.shape
    padded = tf.pad(images, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]], mode)
    offsets = tf.random.stateless_uniform([batch, 2], seed, 0, 2 * padding + 1, tf.int32)
    rows = offsets[:, :1] + tf.range(height)
    columns = offsets[:, 1:] + tf.range(width)
    # One gather of pixels: faster than one of rows and one of columns.
    index = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    pixels = tf.reshape(padded, [batch, -1, images.shape[-1]])
    return tf.gather(pixels, index, batch_dims=1)


def random_flip(images, seed):
    """Mirrors left and right with probability 0.5."""
    flips = _uniform(images, seed) < 0.5
    return tf.where(flips, images[:, :, ::-1], images)


def random_brightness(images, seed, amount=0.1, probability=0.5):
    """Multiplies by a factor in 1 ± `amount` with the probability, as Paddle's adjust_brightness."""
    return _blend(images, tf.zeros_like(images[:, :1, :1]), seed, amount, probability)


def random_contrast(images, seed, amount=0.1, probability=0.5):
    """Blends with the mean of the grey image, as Paddle's adjust_contrast does.

    `mean + factor * (x - mean)`, the factor in 1 ± `amount`, with the probability.
    """
    grey = tf.tensordot(images, tf.constant([0.299, 0.587, 0.114]), 1)
    mean = tf.reduce_mean(grey, axis=(1, 2))[:, None, None, None]
    return _blend(images, mean, seed, amount, probability)


def random_rotation(images, seed, degrees=15):
    """Rotates about the centre by a uniform angle in ± `degrees`: nearest pixel, filled by 0."""
    batch, height, width, _ = images.shape
    angles = _uniform(images, seed, -math.radians(degrees), math.radians(degrees))[:, 0, 0, 0]
    cos, sin = tf.cos(angles), tf.sin(angles)
    x, y = (width - 1) / 2, (height - 1) / 2
    zeros = tf.zeros([batch])
    # From a pixel of the output to one of the input: a rotation about (x, y).
    rows = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zeros, zeros]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows, axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def _uniform(images, seed, low=0.0, high=1.0):
    """Returns a draw for each image, [B, 1, 1, 1]."""
    return tf.random.stateless_uniform([images.shape[0], 1, 1, 1], seed, low, high)


def _blend(images, other, seed, amount, probability):
    """Returns `other + factor * (images - other)` in 0–255 where the probability has it."""
    which, how_much = tf.unstack(tf.random.split(seed, 2))
    factor = _uniform(images, how_much, 1 - amount, 1 + amount)
    factor = tf.where(_uniform(images, which) < probability, factor, 1.0)
    return tf.clip_by_value(other + factor * (images - other), 0.0, 255.0)


AUGMENTATIONS = {
    "random_crop": random_crop,
    "random_flip": random_flip,
    "random_brightness": random_brightness,
    "random_contrast": random_contrast,
    "random_rotation": random_rotation,
}


def parse(text):
    """Returns the function of `name` or `name:option=value,option=value`.

    Raises:
        InputError: If there is no such augmentation, or it does not take the option.
    """
    name, _, options = text.partition(":")
    if name not in AUGMENTATIONS:
        raise InputError(
            f"Unknown augmentation {name!r}; there are {', '.join(AUGMENTATIONS)}. "
            f"Did you mean {nearest(name, AUGMENTATIONS)!r}?"
        )
    function = AUGMENTATIONS[name]
    taken = function.__code__.co_varnames[2 : function.__code__.co_argcount]
    pairs = dict(option.partition("=")[::2] for option in options.split(",") if option)
    for key in pairs:
        if key not in taken:
            raise InputError(
                f"--augment {text}: {name} has no option {key!r}; it has {list(taken)}."
            )
    return partial(function, **{key: _value(value) for key, value in pairs.items()})


def _value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def compose(names):
    """Returns a function `(images, seed) -> images` of augmentations in their order.

    Args:
        names: Strings as `parse` takes them.
    """
    functions = [parse(name) for name in names]

    def augment(images, seed):
        for number, function in enumerate(functions):
            images = function(images, tf.random.fold_in(seed, number))
        return images

    return augment
