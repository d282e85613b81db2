"""Data sets: their parts, as all of training and export see them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.cli import InputError
from training.data import pictures, sources


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, H, W, 3], an array or `store.Images`, and their labels, int64 [N]."""

    images: Any
    labels: np.ndarray

    def __len__(self):
        return len(self.images)

    def take(self, indices):
        """Returns the split of these images."""
        images = self.images
        chosen = images[indices] if isinstance(images, np.ndarray) else images.take(indices)
        return Split(chosen, self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A data set: its splits, its class names by label, and its source.

    Attributes:
        resize: The `pictures.Resize` that makes an image of a picture.
        listing: Rows (part, name, digest) of the pictures of a folder; else empty.
        warnings: List of strings.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: list[str]
    source: str
    resize: pictures.Resize
    listing: list
    warnings: list

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


def load(name, data_dir=None, validation_split=0.0, seed=0, **options):
    """Loads a data set.

    Args:
        name: String, a data set as `sources.load` takes it.
        data_dir: Its folder; `None` for its default.
        validation_split: Share of the training images that is held out, of each class.
        seed: Integer, chooses the held-out images.
        **options: Further fields of `sources.Options`.

    Returns:
        A `Dataset`.

    Raises:
        InputError: If the set is unknown, missing or damaged.
    """
    for key, share in (("validation", validation_split), ("test", options.get("test_split", 0))):
        if not 0 <= share < 1:
            raise InputError(f"--{key}-split {share}: expected a share in [0, 1).")
    options = sources.Options(data_dir, validation_split, seed=seed, **options)
    return of_loaded(name, sources.load(name, options), options)


def of_loaded(name, loaded, options):
    """Returns the `Dataset` of a `sources.Loaded`, which was read with these `sources.Options`."""
    train, validation, test = (
        part and Split(part[0], part[1].astype(np.int64))
        for part in (loaded.train, loaded.validation, loaded.test)
    )
    if test is None:  # the same for every seed
        train, test = _split_off(train, "test", options.test_split, seed=0)
    if validation is None and options.validation_split:
        split = options.validation_split
        train, validation = _split_off(train, "validation", split, options.seed)
    resize = loaded.resize or pictures.Resize(*train.images.shape[1:3])
    return Dataset(
        name,
        train,
        validation,
        test,
        list(loaded.class_names),
        loaded.source,
        resize,
        list(loaded.listing),
        list(loaded.warnings),
    )


def _split_off(split, part, share, seed):
    """Returns the rest of a split, and `share` of the images of each class."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        mask[rng.permutation(members)[: round(share * len(members))]] = True
    if not mask.any() or mask.all():
        raise InputError(f"--{part}-split {share} leaves one part of {len(split)} images empty.")
    return split.take(~mask), split.take(mask)
