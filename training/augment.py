"""Augmentations: functions of a batch of float32 images [B, H, W, C] in 0–255 and a seed.

Each draws for every image by itself, from a stateless seed [2]: the same seed, the same draws.
"""

import math
from functools import partial
from inspect import signature

import tensorflow as tf

from training.cli import InputError, check_name


def random_crop(images, seed, padding=4, mode="constant"):
    """Pads every side, by 0 or by reflection, and crops the old size at a uniform offset."""
    batch, height, width, _ = images.shape
    padded = tf.pad(images, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]], mode)
    offsets = tf.random.stateless_uniform([batch, 2], seed, 0, 2 * padding + 1, tf.int32)
    return _pixels(padded, offsets[:, :1] + tf.range(height), offsets[:, 1:] + tf.range(width))


def random_flip(images, seed):
    """Mirrors left and right with probability 0.5."""
    _, height, width, _ = images.shape
    flips = _uniform(images, seed)[:, :, 0, 0] < 0.5
    columns = tf.where(flips, tf.range(width - 1, -1, -1), tf.range(width))
    return _pixels(images, tf.range(height)[None], columns)


def random_brightness(images, seed, amount=0.1, probability=0.5):
    """Multiplies by a factor in 1 ± `amount`, with the probability (Paddle's adjust_brightness)."""
    return _blend(images, tf.zeros_like(images[:, :1, :1]), seed, amount, probability)


def random_contrast(images, seed, amount=0.1, probability=0.5):
    """Blends with the mean of the grey image, as Paddle's adjust_contrast does.

    `mean + factor * (x - mean)`, the factor in 1 ± `amount`, with the probability.
    """
    grey = tf.tensordot(images, tf.constant([0.299, 0.587, 0.114]), 1)
    mean = tf.reduce_mean(grey, axis=(1, 2))[:, None, None, None]
    return _blend(images, mean, seed, amount, probability)


def random_rotation(images, seed, degrees=15.0):
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


def _pixels(images, rows, columns):
    """Returns each image's pixels at its rows [B or 1, h] and columns [B, w]."""
    batch, _, width, channels = images.shape
    # One gather of pixels: faster than one of rows and one of columns, or than a reversal.
    index = rows[:, :, None] * width + columns[:, None, :]
    return tf.gather(tf.reshape(images, [batch, -1, channels]), index, batch_dims=1)


def _uniform(images, seed, low=0.0, high=1.0):
    """Returns a draw for each image, [B, 1, 1, 1]."""
    return tf.random.stateless_uniform([images.shape[0], 1, 1, 1], seed, low, high)


def _blend(images, other, seed, amount, probability):
    """Returns `other + factor * (images - other)` in 0–255 where the probability has it."""
    which, how_much = tf.unstack(tf.random.split(seed, 2))
    factor = _uniform(images, how_much, max(0.0, 1 - amount), 1 + amount)
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
    check_name("augmentation", name, AUGMENTATIONS)
    function = AUGMENTATIONS[name]
    kinds = {key: type(p.default) for key, p in list(signature(function).parameters.items())[2:]}
    chosen = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        check_name(f"option of {name}", key, kinds)
        try:
            chosen[key] = kinds[key](value)
        except ValueError:
            raise InputError(
                f"--augment {text}: {key} is {value!r}; expected a value like "
                f"{signature(function).parameters[key].default}."
            ) from None
    function = partial(function, **chosen)
    try:
        function(tf.zeros([1, 32, 32, 3]), [0, 0])
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise InputError(f"--augment {text} cannot be applied: {error}") from None
    return function


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
