"""Data sets: their parts, as all of training and export see them."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.cli import InputError
from training.data import pictures, sources
from training.runs import files

LISTED = 5  # names in a message


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
    def listing_hash(self):
        """Hash of the names, contents and parts of the pictures; `None` without a listing."""
        rows = repr(sorted(self.listing)).encode()
        return hashlib.sha256(rows).hexdigest() if self.listing else None

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


def of_run(folder, job, config, classes, data_dir=None, cache="none"):
    """Loads the data set of a run; of a folder only the held-out pictures that the run had, too.

    A picture that was added or moved since may be one that the run was trained on.

    Args:
        folder: Path of the run folder.
        job: Its `Job`.
        config: The content of its `config.json`.
        classes: Integer, of its model.
        data_dir: The data set's folder; `None` for the run's.
        cache: As in `sources.Options`.

    Raises:
        InputError: If the set is missing, or has other classes than the run or other pictures.
    """
    dataset = load(**{**job.data, "data_dir": data_dir, "cache": cache})
    names, found = config.get("class_names"), dataset.class_names
    elsewhere = "Name the folder of the run's own data with --data-dir"
    if classes != len(found) or names not in (None, found):
        other = sorted({*found} ^ {*(names or found)})
        raise InputError(
            f"{folder} has {classes} classes and {dataset.source} {len(found)}"
            f"{'; different: ' + ', '.join(other[:LISTED]) if other else ''}. {elsewhere}"
        )
    listed = {*files.read_listing(folder)}
    for part in ("validation", "test"):
        count = sum(row[0] == part for row in listed)
        now = [row for row in dataset.listing if row[0] == part]
        same = [index for index, row in enumerate(now) if row in listed]
        if not listed or not now:
            continue
        if part == "test" and not same:
            raise InputError(
                f"{folder} had {count} test pictures, none of which is in {dataset.source}. "
                f"{elsewhere}"
            )
        warnings = list(dataset.warnings)
        if lost := count - len(same):
            warnings.append(f"{lost} of {count} {part} pictures have changed, and are left out.")
        taken = getattr(dataset, part).take(np.array(same)) if same else None
        dataset = replace(dataset, **{part: taken}, warnings=warnings)
    return dataset


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
