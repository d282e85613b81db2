"""Augmentations: functions of a batch of float32 images [B, H, W, C] in 0–255 and a seed.

Each draws for every image separately, from a stateless seed [2]: the same seed, the same draws. If
the images are some rows of a larger batch, their draws are the same as in that batch. `rows` is
then the number of the first row, and the size of the batch.
"""

import ast
import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from training.cli import InputError, check_name
from training.data.views import RandomResizedCrop

GREY = (0.299, 0.587, 0.114)  # of R, G and B
OUTSIDE = -1  # a row or column of no image


def random_crop(images, seed, rows=None, padding=4, mode="constant"):
    """Pads every side, with 0 or by reflection, and crops the old size at a uniform offset."""
    _, height, width, _ = images.shape
    offsets = _uniform(images, seed, rows, [2], 0, 2 * padding + 1, tf.int32)

    def places(offsets, size):
        # The numbers of the rows are padded, not the images: it is much less work.
        padded = tf.pad(tf.range(size), [[padding, padding]], mode, constant_values=OUTSIDE)
        return tf.gather(padded, offsets[:, None] + tf.range(size))

    rows, columns = places(offsets[:, 0], height), places(offsets[:, 1], width)
    return _pixels(images, rows[:, :, None], columns[:, None, :])


def random_flip(images, seed, rows=None):
    """Mirrors left and right with probability 0.5."""
    _, height, width, _ = images.shape
    flips = _uniform(images, seed, rows, [1, 1]) < 0.5
    columns = tf.where(flips, tf.range(width - 1, -1, -1), tf.range(width))
    return _pixels(images, tf.range(height)[:, None], columns)


def random_brightness(images, seed, rows=None, amount=0.1, probability=0.5):
    """Multiplies by a factor in 1 ± `amount`, with the probability (Paddle's adjust_brightness)."""
    return _blend(images, tf.zeros_like(images[:, :1, :1]), seed, rows, amount, probability)


def random_contrast(images, seed, rows=None, amount=0.1, probability=0.5):
    """Blends with the grey image's mean by a factor in 1 ± `amount`, as Paddle's adjust_contrast.

    Formula: `mean + factor * (x - mean)`, with the probability.
    """
    batch, height, width, _ = images.shape
    weights = np.tile(np.float32(GREY) / (height * width), height * width)
    mean = tf.linalg.matvec(tf.reshape(images, [batch, -1]), weights)[:, None, None, None]
    return _blend(images, mean, seed, rows, amount, probability)


def random_rotation(images, seed, rows=None, degrees=15.0):
    """Rotates about the centre by a uniform angle in ± `degrees`: nearest pixel, filled with 0."""
    _, height, width, _ = images.shape
    angle = math.radians(degrees)
    angles = _uniform(images, seed, rows, [1, 1], -angle, angle)
    cos, sin = tf.cos(angles), tf.sin(angles)
    y, x = (height - 1) / 2, (width - 1) / 2
    down = tf.range(height, dtype=tf.float32)[:, None] - y
    right = tf.range(width, dtype=tf.float32) - x
    # From a pixel of the output to a pixel of the input: a rotation about (x, y).
    rows, columns = sin * right + cos * down + y, cos * right - sin * down + x
    return _pixels(images, *(tf.cast(tf.round(places), tf.int32) for places in (rows, columns)))


def _pixels(images, rows, columns):
    """Returns each image's pixels at rows and columns, which broadcast; black outside of it."""
    batch, height, width, channels = images.shape
    black = batch * height * width  # the pixel after the last image's
    first_rows = height * tf.range(batch)[:, None, None]
    rows = tf.where((rows >= 0) & (rows < height), (first_rows + rows) * width, black)
    columns = tf.where((columns >= 0) & (columns < width), columns, black)
    pixels = tf.concat([tf.reshape(images, [-1, channels]), tf.zeros([1, channels])], axis=0)
    # One gather of pixels is faster than gathering rows, then columns, and than a reversal.
    # gather_nd takes half the time of gather.
    return tf.gather_nd(pixels, tf.minimum(rows + columns, black)[..., None])


def _uniform(images, seed, rows, shape, low=0.0, high=1.0, dtype=tf.float32):
    """Returns a draw for each image, [B, *shape], the rows of the draw for the whole batch."""
    count = images.shape[0]
    first, batch = rows or (0, count)
    return tf.random.stateless_uniform([batch, *shape], seed, low, high, dtype)[first:][:count]


def _blend(images, other, seed, rows, amount, probability):
    """Returns `other + factor * (images - other)` in 0–255 with the probability, else images."""
    which, how_much = tf.unstack(tf.random.split(seed, 2))
    factor = _uniform(images, how_much, rows, [1, 1, 1], max(0.0, 1 - amount), 1 + amount)
    factor = tf.where(_uniform(images, which, rows, [1, 1, 1]) < probability, factor, 1.0)
    return tf.clip_by_value(other + factor * (images - other), 0.0, 255.0)


AUGMENTATIONS = {
    "random_resized_crop": RandomResizedCrop,  # of the whole picture, see `views`
    "random_crop": random_crop,
    "random_flip": random_flip,
    "random_brightness": random_brightness,
    "random_contrast": random_contrast,
    "random_rotation": random_rotation,
}


class Augmentation(NamedTuple):
    """What happens to training images, in this order.

    Attributes:
        crop: A `views.RandomResizedCrop`, or `None`.
        functions: Functions `(images, seed, rows) -> images`.
        mixers: Functions `(images, labels, seed) -> (images, labels)`, the labels one-hot.
        whole_batch: List of the names whose draws are for a whole batch, not for each image: of
            Keras' layers, which several processes cannot share.
    """

    crop: RandomResizedCrop | None
    functions: list[Callable]
    mixers: list[Callable]
    whole_batch: list[str]

    def __call__(self, images, seed, rows=None):
        """Returns the images after all functions."""
        for number, function in enumerate(self.functions):
            images = function(images, tf.random.fold_in(seed, number), rows)
        return images

    def mix(self, images, labels, seed):
        """Returns the images and one-hot labels after all mixers."""
        for number, mixer in enumerate(self.mixers, start=len(self.functions)):
            images, labels = mixer(images, labels, tf.random.fold_in(seed, number))
        return images, labels


def compose(names):
    """Returns the `Augmentation` of some names.

    Args:
        names: Strings `name` or `name:option=value,option=value`, of `AUGMENTATIONS` or of a
            preprocessing layer of Keras. `MixUp` and `CutMix` come last, wherever they stand.

    Raises:
        InputError: If the augmentation is unknown, or does not take the option.
    """
    composed = Augmentation(None, [], [], [])
    for number, text in enumerate(names):
        name, _, options = text.partition(":")
        if name not in AUGMENTATIONS:
            _add_layer(composed, name, options)
        elif name == "random_resized_crop":
            if number:
                raise InputError(f"--augment {text}: expected as the first augmentation.")
            composed = composed._replace(crop=parse(text))
        else:
            composed.functions.append(parse(text))
    return composed


def _add_layer(composed, name, options):
    from training.data import keras_layers

    names = {*AUGMENTATIONS, *keras_layers.names()} if name.islower() else keras_layers.names()
    check_name("augmentation", name, sorted(names))
    chosen = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        try:
            chosen[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            chosen[key] = value
    layer = keras_layers.augmentation(name, chosen)
    composed.whole_batch.append(name)
    if name in keras_layers.MIXING:
        composed.mixers.append(layer)
    else:
        composed.functions.append(lambda images, seed, rows: layer(images, None, seed)[0])


def parse(text):
    """Returns the function of `name:option=value,…`, of `AUGMENTATIONS`.

    Raises:
        InputError: If the augmentation or its option is unknown.
    """
    name, _, options = text.partition(":")
    check_name("augmentation", name, AUGMENTATIONS)
    function = AUGMENTATIONS[name]
    parameters = signature(function).parameters.items()
    defaults = {key: p.default for key, p in parameters if key not in ("images", "seed", "rows")}
    chosen = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        check_name(f"option of {name}", key, defaults)
        try:
            chosen[key] = type(defaults[key])(value)
        except ValueError:
            raise InputError(
                f"--augment {text}: {key} is {value!r}; expected a value like {defaults[key]}."
            ) from None
    if name != "random_resized_crop":
        return partial(function, **chosen)
    crop = function(**chosen)
    if not (0 < crop.area <= 1 and 0 < crop.aspect <= 1 and 0 <= crop.flip <= 1):
        raise InputError(f"--augment {text}: expected area, aspect and flip above 0, up to 1.")
    return crop


def check(names, height, width):
    """Raises an InputError unless each augmentation can be applied to images of this size."""
    images, labels = tf.zeros([2, height, width, 3]), tf.eye(2)
    for name in names:
        try:
            one = compose([name])
            one.mix(one(images, tf.constant([0, 0])), labels, tf.constant([0, 0]))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise InputError(f"--augment {name} cannot be applied: {error}") from None
