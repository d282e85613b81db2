"""The streams of batches for training and evaluation.

A network takes normalized images. Only `normalize` makes them, for the streams here and for the
SavedModel; before it, pixels are 0–255.
"""

import numpy as np
import tensorflow as tf

from training.cli import InputError
from training.data import views

LARGEST_PREVIEW = 1024  # pixels
CROP_DRAWS = 1_000_000  # folded into a step's seed for its crops


def normalize(images, mean, std):
    """Returns `(images / 255 - mean) / std`, float32; mean and std of R, G and B in 0–1."""
    scale, offset = scale_and_offset(mean, std)
    return tf.cast(images, tf.float32) * scale - offset


def scale_and_offset(mean, std):
    """Returns the factor of `normalize`, and what it then subtracts, float32 [3] each."""
    mean, std = np.asarray(mean), np.asarray(std)
    return (1 / (255 * std)).astype("float32"), (mean / std).astype("float32")


def _normalize_rows(images, mean, std):
    """Returns `normalize(images, mean, std)`, bit-exact, in a fifth of its time."""
    _, height, width, channels = images.shape
    # A row of W pixels as one of 3 W channels: broadcasting over 3 numbers is slow.
    rows = tf.reshape(images, [-1, height, width * channels])
    normalized = normalize(rows, width * tuple(mean), width * tuple(std))
    return tf.reshape(normalized, [-1, *images.shape[1:]])


def mean_and_std(split, count=5000):
    """Returns the mean and the standard deviation of R, G and B, 0–1, of up to `count` images.

    The images are evenly spaced. Each number has four digits.
    """
    chosen = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    for index in chosen:
        image = split.images[index] / 255
        sums += image.sum((0, 1))
        squares += (image**2).sum((0, 1))
        pixels += image[..., 0].size
    mean = sums / pixels
    std = np.sqrt(squares / pixels - mean**2)
    return tuple(
        tuple(round(max(float(value), least), 4) for value in values)
        for values, least in ((mean, 0.0), (std, 1e-3))
    )


def steps_per_epoch(split, batch_size):
    """Returns the number of whole batches in a split.

    Raises:
        InputError: If the split has no whole batch.
    """
    if not 1 <= batch_size <= len(split):
        raise InputError(
            f"--batch-size {batch_size}: expected 1 to {len(split)}, the number of images."
        )
    return len(split) // batch_size


def training_stream(
    split,
    batch_size,
    mean,
    std,
    augment=None,
    size=None,
    seed=0,
    first_epoch=0,
    first_step=0,
    steps=None,
    shard=(0, 1),
    classes=None,
):
    """Returns an endless stream of augmented, normalized batches, in another order each epoch.

    The seed and the epoch's number determine the order and the draws of an epoch. So a resumed
    training gets the same batches as an uninterrupted one.

    Args:
        split: A `Split`.
        batch_size: Integer; each batch is whole.
        mean: Of R, G and B, 0–1.
        std: Of R, G and B, 0–1.
        augment: An `augment.Augmentation`, or a function `(images float32 0–255, seed [2], rows) ->
            images`.
        size: Integer, the height and width after a resize at the end; `None`: no resize.
        seed: Integer.
        first_epoch: Integer, the number of the first epoch, from 0.
        first_step: Integer, the number of that epoch's first batch, from 0.
        steps: The batches of an epoch; all whole ones if `None`.
        shard: The number of this process, and the number of processes. Each takes its rows of every
            batch, augmented as in the whole batch.
        classes: Integer, for one-hot labels; `None` for integers.

    Returns:
        A `tf.data.Dataset` of (float32 [B, H, W, 3], int64 [B] or float32 [B, classes]), where B is
        the batch size, or the shard's part of it.
    """
    steps = steps or steps_per_epoch(split, batch_size)
    rows = batch_size // shard[1]
    place = (shard[0] * rows, batch_size)
    labels = tf.constant(split.labels)

    def epoch_of_batches(epoch):
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(split)), epoch_seed)
        order = tf.reshape(order[: steps * batch_size], (steps, batch_size))
        step_seeds = tf.random.split(tf.random.fold_in(epoch_seed, 1), steps)
        own = order[:, place[0] : place[0] + rows]
        return tf.data.Dataset.from_tensor_slices((own, step_seeds))

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    steps_and_seeds = epochs.flat_map(epoch_of_batches).skip(first_step)
    crop = getattr(augment, "crop", None)

    def finished(images, indices, step_seed):
        own = tf.gather(labels, indices)
        if augment is not None:
            images = augment(tf.cast(images, tf.float32), step_seed, place)
        images = resize(images, size)
        if classes is not None:
            own = tf.one_hot(own, classes)
            if getattr(augment, "mixers", None):
                images, own = augment.mix(images, own, step_seed)
        return _normalize_rows(images, mean, std), own

    def draws(step_seed):
        crop_seed = tf.random.fold_in(step_seed, CROP_DRAWS)
        return tf.random.stateless_uniform([place[1], views.DRAWS], crop_seed)[place[0] :][:rows]

    if isinstance(split.images, np.ndarray):
        array = tf.constant(split.images)

        def batch_of_images(indices, step_seed):
            images = tf.gather(array, indices)
            if crop is not None:
                images = crop.of_arrays(tf.cast(images, tf.float32), draws(step_seed))
            return finished(images, indices, step_seed)

        batches = steps_and_seeds.map(batch_of_images, tf.data.AUTOTUNE)
    else:
        drawn = steps_and_seeds.map(lambda indices, step_seed: (indices, draws(step_seed)))
        read = views.batches(split.images, drawn, crop, rows)
        batches = tf.data.Dataset.zip((read, steps_and_seeds)).map(
            lambda images, step: finished(images, *step), tf.data.AUTOTUNE
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_stream(split, batch_size, mean, std, size=None):
    """Returns the split's normalized images, resized to `size`; the last batch may be smaller."""
    if isinstance(split.images, np.ndarray):
        images = tf.data.Dataset.from_tensor_slices(split.images).batch(batch_size)
    else:
        images = views.in_order(split.images, batch_size)
    labels = tf.data.Dataset.from_tensor_slices(split.labels).batch(batch_size)
    return (
        tf.data.Dataset.zip((images, labels))
        .map(
            lambda images, labels: (_normalize_rows(resize(images, size), mean, std), labels),
            tf.data.AUTOTUNE,
        )
        .prefetch(tf.data.AUTOTUNE)
    )


def resize(images, size):
    """Returns images [N, H, W, C] resized to [N, size, size, C], antialiased; `None`: unchanged."""
    if size in (None, images.shape[1]):
        return images
    return tf.image.resize(images, (size, size), antialias=True)


def preview(split, augment, seed, columns=8):
    """Returns a picture of the first training images, as `training_stream` augments them.

    It is float32 [1, H, W, 3] in 0–1.
    """
    columns = max(1, min(columns, LARGEST_PREVIEW // split.images.shape[2], len(split)))
    whole_rows = min(columns, len(split) // columns)
    first = split.take(np.arange(whole_rows * columns))
    classes = int(first.labels.max()) + 1
    unchanged = (0, 0, 0), (1, 1, 1)
    stream = training_stream(first, len(first), *unchanged, augment, seed=seed, classes=classes)
    images, _ = next(iter(stream))
    rows = tf.reshape(tf.clip_by_value(images, 0, 1), (-1, columns, *images.shape[1:]))
    picture = tf.concat(tf.unstack(tf.concat(tf.unstack(rows, axis=1), axis=2)), axis=0)
    return picture[None]
