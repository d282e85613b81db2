"""The streams that are compared: ours, and the same pipeline with layers of stock Keras."""

import os

import numpy as np
import tensorflow as tf
from keras import layers

from training import augment, data, recipes
from training.cli import InputError, check_name

TRAINING_IMAGES = 50_000  # of CIFAR
SIZE = 32  # pixels a side
# Stock layers change every image: they have no probability.
STOCK = {
    "random_crop": lambda padding=4, mode="constant": layers.RandomTranslation(
        padding / SIZE, padding / SIZE, mode, "nearest"
    ),
    "random_flip": lambda: layers.RandomFlip("horizontal"),
    "random_brightness": lambda amount=0.1, **_: layers.RandomBrightness(amount),
    "random_contrast": lambda amount=0.1, **_: layers.RandomContrast(amount),
    "random_rotation": lambda degrees=15.0: layers.RandomRotation(
        degrees / 360, "constant", "nearest"
    ),
}


class Stream:
    """A stream that is drawn from.

    Args:
        augmentations: What it does to the images, as names.
        batches: An endless `tf.data.Dataset`.
    """

    def __init__(self, augmentations, batches):
        self.augmentations = augmentations
        self.batches = batches
        self.restart()

    def restart(self):
        """Starts anew: what was prefetched while others had their turn is not counted."""
        self._iterator = iter(self.batches)

    def draw(self, count):
        """Takes so many batches."""
        for _ in range(count):
            next(self._iterator)


def open_streams(split, recipe_name, recipe):
    """Returns the `Stream` of each contender by its name, the recipe's own first.

    Args:
        split: The `data.Split` that all of them draw from.
        recipe_name: A key of `recipes.RECIPES`.
        recipe: Its `Recipe`; the mean, the deviation and the batch of every stream are its.

    Raises:
        InputError: If the split has no whole batch, or stock Keras no such layer.
    """

    def stream(names, function):
        return Stream(
            names, data.training_stream(split, recipe.batch_size, recipe.mean, recipe.std, function)
        )

    ours = {recipe_name: recipe.augment, "fast": recipes.get("fast").augment, "none": ()}
    streams = {name: stream(names, augment.compose(names)) for name, names in ours.items()}
    stock = stock_layers(recipe.augment)

    def apply_stock(images, seed, rows):  # the layers have generators of their own
        for layer in stock:
            images = layer(images, training=True)
        return images

    streams["keras"] = stream([type(layer).__name__ for layer in stock], apply_stock)
    return streams


def stock_layers(names):
    """Returns the stock layers that are most like augmentations, named as `augment.parse` does."""
    parsed = [augment.parse(name) for name in names]
    for function in parsed:
        check_name("augmentation of stock Keras", function.func.__name__, STOCK)
    return [STOCK[function.func.__name__](**function.keywords) for function in parsed]


def check_alike(streams):
    """Raises an InputError unless the streams' first batches are of the same images, as numbers."""
    first_name, *others = streams
    first_images, first_labels = next(iter(streams[first_name].batches))
    for name in others:
        images, labels = next(iter(streams[name].batches))
        for what, alike in (
            ("shape", images.shape == first_images.shape),
            ("type", images.dtype == first_images.dtype),
            ("images", np.array_equal(labels, first_labels)),
        ):
            if not alike:
                raise InputError(
                    f"The streams {first_name} and {name} do not have the same {what}; "
                    "their times cannot be compared. Compare streams of one data set and batch."
                )
        if not tf.reduce_all(tf.math.is_finite(images)):
            raise InputError(f"The stream {name} gives no finite numbers; expected images.")


def training_images():
    """Returns CIFAR-100's training images if they are on the disk, or as many others; the source.

    How fast they are augmented does not depend on what they show.
    """
    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    try:
        dataset = data.load("cifar100", folder)  # a folder that is named is never downloaded to
    except InputError:
        dataset = data.load("synthetic")
    repeated = np.arange(TRAINING_IMAGES) % len(dataset.train)
    return dataset.train.take(repeated), dataset.source
