"""Data sets in memory, their splits, and the streams of batches for training and evaluation.

A network takes normalized images. Only `normalize` makes them, for the streams here and for the
SavedModel; before it, pixels are 0–255.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.cli import InputError, check_name
from training.data import sources


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, H, W, 3], and their labels, int64 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.images)

    def take(self, indices):
        """Returns the split of these images."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: its splits, its class names by label, and its source."""

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: list[str]
    source: str

    @property
    def image_shape(self):
        """(height, width, channels) of each image."""
        return self.train.images.shape[1:]

    @property
    def held_out(self):
        """The split that each epoch is evaluated on: the validation part, or the test set."""
        return self.test if self.validation is None else self.validation

    @property
    def held_out_name(self):
        """The size and the name of the held-out split."""
        name = "test" if self.validation is None else "validation"
        return f"{len(self.held_out)} {name} images"


def load(name, data_dir=None, validation_split=0.0, seed=0):
    """Loads a data set into memory.

    Args:
        name: A key of `sources.DATASETS`.
        data_dir: Its folder; `None` for `TFDS_DATA_DIR`, or else the default folder of TFDS.
        validation_split: Share of the training images that is held out, the same of each class.
        seed: Integer, chooses the held-out images.

    Returns:
        A `Dataset`.

    Raises:
        InputError: If the name is unknown, or the set is missing or damaged.
    """
    check_name("dataset", name, sources.DATASETS)
    if not 0 <= validation_split < 1:
        raise InputError(f"--validation-split {validation_split}: expected a share in [0, 1).")
    train, test, class_names, source = sources.load(name, data_dir)
    train, test = (Split(images, labels.astype(np.int64)) for images, labels in (train, test))
    validation = None
    if validation_split:
        chosen = _held_out(train.labels, validation_split, seed)
        train, validation = train.take(~chosen), train.take(chosen)
    return Dataset(name, train, validation, test, class_names, source)


def _held_out(labels, share, seed):
    """Returns a mask of `share` of the images of each class."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[rng.permutation(members)[: round(share * len(members))]] = True
    if not mask.any() or mask.all():
        raise InputError(f"--validation-split {share} leaves one part of {len(labels)} empty.")
    return mask


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
):
    """Returns an endless stream of augmented, normalized batches, in another order each epoch.

    The seed and the epoch's number determine the order and the draws of an epoch. So a resumed
    training gets the same batches as an uninterrupted one.

    Args:
        split: A `Split`.
        batch_size: Integer; each batch is whole.
        mean: Of R, G and B, 0–1.
        std: Of R, G and B, 0–1.
        augment: Function `(images float32 0–255, seed [2], rows) -> images`, see `augment`.
        size: Integer, the height and width after a resize at the end; `None`: no resize.
        seed: Integer.
        first_epoch: Integer, the number of the first epoch, from 0.
        first_step: Integer, the number of that epoch's first batch, from 0.
        steps: The batches of an epoch; all whole ones if `None`.
        shard: The number of this process, and the number of processes. Each takes its rows of every
            batch, augmented as in the whole batch.

    Returns:
        A `tf.data.Dataset` of (float32 [B, H, W, 3], int64 [B]), where B is the batch size, or the
        shard's part of it.
    """
    steps = steps or steps_per_epoch(split, batch_size)
    images, labels = tf.constant(split.images), tf.constant(split.labels)
    rows = batch_size // shard[1]
    first_row = shard[0] * rows

    def epoch_of_batches(epoch):
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(split)), epoch_seed)
        order = tf.reshape(order[: steps * batch_size], (steps, batch_size))
        step_seeds = tf.random.split(tf.random.fold_in(epoch_seed, 1), steps)
        own = order[:, first_row : first_row + rows]
        return tf.data.Dataset.from_tensor_slices((own, step_seeds))

    def batch_of_images(indices, step_seed):
        batch = tf.gather(images, indices)
        if augment is not None:
            batch = augment(tf.cast(batch, tf.float32), step_seed, (first_row, batch_size))
        return _normalize_rows(resize(batch, size), mean, std), tf.gather(labels, indices)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    batches = epochs.flat_map(epoch_of_batches).skip(first_step)
    return batches.map(batch_of_images, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def evaluation_stream(split, batch_size, mean, std, size=None):
    """Returns the split's normalized images, resized to `size`; the last batch may be smaller."""
    batches = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(batch_size)
    return batches.map(
        lambda images, labels: (_normalize_rows(resize(images, size), mean, std), labels),
        tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)


def resize(images, size):
    """Returns images [N, H, W, C] resized to [N, size, size, C], antialiased; `None`: unchanged."""
    if size in (None, images.shape[1]):
        return images
    return tf.image.resize(images, (size, size), antialias=True)


def preview(split, augment, seed, columns=8):
    """Returns a picture of augmented training images, float32 [1, H, W, 3] in 0–1."""
    images = tf.constant(split.images[: columns * columns], tf.float32)
    rows = tf.reshape(augment(images, tf.constant([seed, 0])), (-1, columns, *images.shape[1:]))
    picture = tf.concat(tf.unstack(tf.concat(tf.unstack(rows, axis=1), axis=2)), axis=0)
    return picture[None] / 255
