"""CIFAR-10 and CIFAR-100: prepared by TFDS, or the archive from Toronto."""

import os
import re
import tarfile
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np

from keras_nam.weights import safe_pickle
from training.cli import InputError
from training.data import tfds

HOST = "www.cs.toronto.edu"
LARGEST_FILE = 400_000_000  # bytes; the largest real one, CIFAR-100's `train`, has 155 million
SHAPE = (32, 32, 3)  # of an image


# What the archive of a set is called, its members, and the keys of their pickles.
Archive = namedtuple("Archive", "file folder train test meta labels names classes")
ARCHIVES = {
    "cifar100": Archive(
        *("cifar-100-python.tar.gz", "cifar-100-python", ["train"], ["test"]),
        *("meta", "fine_labels", "fine_label_names", 100),
    ),
    "cifar10": Archive(
        *("cifar-10-python.tar.gz", "cifar-10-batches-py"),
        *([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
        *("batches.meta", "labels", "label_names", 10),
    ),
}


def load(name, data_dir=None):
    """Loads `"cifar10"` or `"cifar100"`, see `sources.load`.

    Args:
        name: String, the data set.
        data_dir: A folder with the set as prepared by TFDS, its archive, or the unpacked archive.
            By default `TFDS_DATA_DIR`, or the default folder of TFDS, which downloads the set.

    Raises:
        InputError: If the set is missing or damaged.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = Path(given or "~/tensorflow_datasets").expanduser()
    archive = ARCHIVES[name]
    try:
        train, test, class_names, source = _read(name, archive, folder, is_given=bool(given))
        _check(archive.classes, class_names, train, test)
    except Exception as error:  # TFDS, TensorFlow, tarfile and the disk each raise their own
        # Without TensorFlow's names of operations.
        reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", str(error)).strip() or type(error).__name__
        raise InputError(
            f"No usable {name} in {folder}: {reason.splitlines()[0][:300]}. Give --data-dir a "
            f"folder with {name}/ (prepared by TFDS), {archive.file} or {archive.folder}/, leave "
            "out --data-dir and TFDS_DATA_DIR to download it, or use --dataset synthetic."
        ) from None
    return train, test, class_names, source


def _check(classes, class_names, *splits):
    """Raises a ValueError unless the content is a CIFAR's."""
    if len(class_names) != classes or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f"expected {classes} class names, as text")
    for images, labels in splits:
        is_whole = images.dtype == np.uint8 and images.shape[1:] == SHAPE and len(images)
        if not is_whole or len(labels) != len(images) or not set(labels) <= set(range(classes)):
            raise ValueError(
                f"images {images.dtype} {images.shape}, {len(labels)} labels; expected uint8 "
                f"images of shape {SHAPE}, with a label from 0 to {classes - 1} each"
            )


def _read(name, archive, folder, is_given):
    if tfds.versions(folder / name):
        return tfds.load_arrays(name, folder, HOST)
    members = (*archive.train, *archive.test, archive.meta)
    contents = _read_tar(archive.folder, members, folder / archive.file)
    for place in (folder / archive.folder, folder):
        contents = contents or {
            file: (place / file).read_bytes() for file in members if (place / file).is_file()
        }
    if contents:
        return *_from_pickles(archive, contents), f"{name} in {folder}"
    if is_given:
        raise ValueError("there is none" if folder.is_dir() else "this is not a folder")
    return tfds.load_arrays(name, folder, HOST)


def _read_tar(folder, members, path):
    """Returns the members of an archive's folder; nothing is written to the disk."""
    if not path.is_file():
        return {}
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                parent, _, name = tarfile.data_filter(member, path.parent).name.rpartition("/")
                if parent == folder and name in members and member.isreg():
                    if member.size > LARGEST_FILE:
                        raise ValueError(f"{name} in {path.name} has {member.size} bytes")
                    contents[name] = tar.extractfile(member).read()
            while tar.fileobj.read(2**20):  # the checksum is at the end
                pass
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"{path.name} is damaged or refused: {error}") from None
    if not contents:
        raise ValueError(f"{path.name} has no {folder}/")
    return contents


def _from_pickles(archive, contents):
    """Returns the images and labels of both splits, and the class names."""

    def unpickle(file):
        try:
            return safe_pickle.loads(contents[file])
        except KeyError:
            raise ValueError(f"{archive.folder}/{file} is missing") from None
        except ValueError as error:
            raise ValueError(f"{archive.folder}/{file} is refused or damaged. {error}") from None

    def split(files):
        batches = [unpickle(file) for file in files]
        # Rows are planes: all red, all green, all blue.
        planes = np.concatenate([batch["data"].values for batch in batches])
        images = planes.reshape(-1, *SHAPE[::-1]).transpose(0, 2, 3, 1)
        labels = [label for batch in batches for label in batch[archive.labels]]
        if not all(type(label) is int for label in labels):
            raise ValueError("there are labels that are not integers")
        return np.ascontiguousarray(images), np.array(labels)

    class_names = list(unpickle(archive.meta)[archive.names])
    return split(archive.train), split(archive.test), class_names
