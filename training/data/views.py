"""The part of a picture that a training step sees: a random crop, decoded and resized in parallel.

Only the crop is decoded where the file is a JPEG, and in half, a quarter or an eighth of its
resolution where that is enough.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from training.data import pictures, store

# JPEGs are decoded at 1/1, 1/2, 1/4 or 1/8 of their resolution.
RATIOS = (1, 2, 4, 8)
DRAWS = 5  # numbers that a rectangle takes


class RandomResizedCrop(NamedTuple):
    """A random rectangle of a picture, resized to the network's size.

    Attributes:
        area: Float in (0, 1], the smallest share of the picture's area; the largest is 1.
        aspect: Float in (0, 1], the smallest aspect ratio (width / height) of the rectangle,
            relative to the network's; the largest is its inverse. A rectangle that is too wide or
            too high is cut to the picture.
        flip: Float, the probability that it is mirrored left and right.
    """

    area: float = 0.25
    aspect: float = 0.75
    flip: float = 0.0

    def boxes(self, sizes, draws, target):
        """Returns int32 [B, 4]: top, left, height and width of each picture's rectangle.

        Args:
            sizes: Int tensor [B, 2], height and width of each picture.
            draws: Float32 tensor [B, DRAWS], uniform in [0, 1).
            target: Height and width of the network's images.
        """
        height, width = tf.unstack(tf.cast(sizes, tf.float32), axis=-1)
        area = height * width * (self.area + (1 - self.area) * draws[:, 0])
        span = -math.log(self.aspect)
        ratio = tf.exp(span * (2 * draws[:, 1] - 1)) * target[1] / target[0]
        rows = tf.clip_by_value(tf.round(tf.sqrt(area / ratio)), 1, height)
        columns = tf.clip_by_value(tf.round(tf.sqrt(area * ratio)), 1, width)
        top = tf.floor(draws[:, 2] * (height - rows + 1))
        left = tf.floor(draws[:, 3] * (width - columns + 1))
        return tf.cast(tf.stack([top, left, rows, columns], -1), tf.int32)

    def flips(self, draws):
        """Returns bool [B], which rectangles are mirrored."""
        return draws[:, 4] < self.flip

    def of_arrays(self, images, draws):
        """Returns the rectangles of a batch of float32 images [B, H, W, 3], in its size."""
        size = tuple(images.shape[1:3])
        sizes = tf.tile([size], [tf.shape(images)[0], 1])
        boxes = tf.cast(self.boxes(sizes, draws, size), tf.float32)
        first, extent = boxes[:, :2], boxes[:, 2:]
        # The first and the last pixel, as shares of the image's.
        edges = tf.concat([first, first + extent - 1], -1) / tf.tile(
            [[size[0] - 1.0, size[1] - 1.0]], [1, 2]
        )
        edges = tf.minimum(edges, 1 - 1e-6)  # beyond the last pixel TensorFlow puts 0
        mirrored = tf.gather(edges, (0, 3, 2, 1), axis=1)
        edges = tf.where(self.flips(draws)[:, None], mirrored, edges)
        return tf.image.crop_and_resize(images, edges, tf.range(tf.shape(images)[0]), size)


def batches(images, indices_and_draws, crop, rows):
    """Returns a dataset of float32 batches [rows, H, W, 3] in 0–255.

    Args:
        images: A `store.Images`.
        indices_and_draws: `tf.data.Dataset` of (int indices [rows], float32 draws
            [rows, DRAWS]).
        crop: A `RandomResizedCrop`, or `None` for the images as they are evaluated.
        rows: Integer, the images of a batch.
    """
    if crop is None:
        view = _evaluated(images)
        each = indices_and_draws.map(lambda indices, draws: indices).unbatch()
    else:
        view = _cropped(images)
        numbers = tf.constant(images.indices)
        sizes = tf.constant(images.store.sizes, tf.int32)

        def rectangles(indices, draws):
            chosen = tf.gather(numbers, indices)
            boxes = crop.boxes(tf.gather(sizes, chosen), draws, images.shape[1:3])
            return chosen, boxes, crop.flips(draws)

        each = indices_and_draws.map(rectangles).unbatch()
    return each.map(view, tf.data.AUTOTUNE).batch(rows, drop_remainder=True)


def in_order(images, batch_size):
    """Returns a dataset of uint8 batches of all images, in their order, as they are evaluated."""
    each = tf.data.Dataset.range(len(images)).map(_evaluated(images, tf.uint8), tf.data.AUTOTUNE)
    return each.batch(batch_size)


def _evaluated(images, dtype=tf.float32):
    def view(index):
        image = tf.numpy_function(images.__getitem__, [index], tf.uint8, stateful=False)
        return tf.cast(tf.ensure_shape(image, images.shape[1:]), dtype)

    return view


def _cropped(images):
    source, size = images.store, images.shape[1:3]
    is_decoded = isinstance(source, store.Decoded)
    if is_decoded:
        paths, is_jpeg = tf.constant([str(p) for p in source.paths]), tf.constant(source.is_jpeg)

    def whole(number):
        read = (
            (lambda i: pictures.read_whole(source.paths[i])) if is_decoded else source.__getitem__
        )
        return tf.numpy_function(read, [number], tf.uint8, stateful=False)

    def view(number, box, is_mirrored):
        top, left, height, width = tf.unstack(box)

        def from_pixels():
            return whole(number)[top : top + height, left : left + width]

        def resized(pixels, antialias=False):  # bilinear
            return tf.image.resize(
                tf.ensure_shape(pixels, [None, None, 3]), size, antialias=antialias
            )

        if is_decoded:
            image = tf.cond(
                is_jpeg[number],
                lambda: resized(_decode_box(paths[number], box, size)),
                lambda: resized(from_pixels(), antialias=True),  # of any resolution
            )
        else:
            image = resized(from_pixels())
        return tf.cond(is_mirrored, lambda: tf.reverse(image, [1]), lambda: image)

    return view


def _decode_box(path, box, size):
    """Returns a rectangle of a JPEG, at the lowest resolution that has the pixels of `size`."""
    content = tf.io.read_file(path)

    def at(ratio):
        def decode():
            scaled = box // ratio  # the rectangle is given in scaled pixels
            return tf.image.decode_and_crop_jpeg(content, scaled, channels=3, ratio=ratio)

        return decode

    spare = tf.reduce_min(box[2:] // tf.constant(size, tf.int32))
    fitting = tf.reduce_sum(tf.cast(spare >= tf.constant(RATIOS), tf.int32))
    return tf.switch_case(tf.maximum(fitting - 1, 0), [at(ratio) for ratio in RATIOS])
