"""Keras' preprocessing layers as augmentations whose draws are a function of a given seed."""

import inspect

import keras
import tensorflow as tf

from training.cli import InputError, check_name

# Their images get another size, AugMix draws from Python's own generator as it is traced, and the
# last one changes no image.
NOT_OFFERED = ("CenterCrop", "RandomCrop", "Resizing", "AugMix", "MaxNumBoundingBoxes")
MIXING = ("CutMix", "MixUp")  # they change labels too


class _Draws(keras.random.SeedGenerator):
    """A seed generator that continues from a stateless seed, without a variable."""

    def __init__(self, seed):
        self.seed = tf.cast(seed, tf.int32)
        self.count = 0

    def next(self, ordered=True):
        self.count += 1
        return tf.random.fold_in(self.seed, self.count)


def _base():
    (base,) = [
        kind
        for kind in keras.layers.RandomFlip.__mro__
        if kind.__name__ == "BaseImagePreprocessingLayer"
    ]
    return base


def names():
    """Returns the names of the layers, sorted."""
    found = vars(keras.layers).items()
    kinds = [name for name, kind in found if inspect.isclass(kind) and issubclass(kind, _base())]
    return sorted(set(kinds) - set(NOT_OFFERED))


def augmentation(name, options):
    """Returns a function `(images, labels, seed) -> (images, labels)`.

    Args:
        name: String, a layer of `keras.layers` that `names` lists. The layers of `MIXING` also
            change the labels, which must be one-hot.
        options: Dictionary of its arguments.

    Raises:
        InputError: If the layer is unknown, or does not take these arguments.
    """
    check_name("augmentation", name, names())
    kind = getattr(keras.layers, name)
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "seed", "kwargs"}
    for option in options:
        check_name(f"option of {name}", option, known)
    if "value_range" in known:
        options = {"value_range": (0, 255), **options}
    try:
        layer = kind(**options, dtype="float32")
    except (TypeError, ValueError) as error:
        raise InputError(f"--augment {name}: {error}") from None

    def augment(images, labels, seed):
        draws = _Draws(seed)
        for inner in layer._flatten_layers():  # RandAugment has layers inside
            inner._get_seed_generator = lambda backend=None: draws
        if name in MIXING:
            found = layer({"images": images, "labels": labels}, training=True)
        else:
            found = {"images": layer(images, training=True), "labels": labels}
        images = tf.clip_by_value(tf.ensure_shape(found["images"], images.shape), 0.0, 255.0)
        return images, found["labels"]

    return augment
