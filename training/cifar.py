"""CIFAR-10 and CIFAR-100, prepared by TFDS, or as the archive from Toronto."""

import gzip
import io
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_nam import safe_pickle
from training.cli import InputError


class Archive(NamedTuple):
    """What the archive of a set is called, and its folder, its files, and their keys."""

    file: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str
    classes: int


ARCHIVES = {
    "cifar100": Archive(
        "cifar-100-python.tar.gz",
        "cifar-100-python",
        ("train",),
        ("test",),
        "meta",
        "fine_labels",
        "fine_label_names",
        100,
    ),
    "cifar10": Archive(
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "labels",
        "label_names",
        10,
    ),
}
HOST = "www.cs.toronto.edu"
LARGEST_MEMBER = 400_000_000  # bytes; the largest true one, CIFAR-100's `train`, has 155 million


def load(name, data_dir=None):
    """Loads from `data_dir` or `TFDS_DATA_DIR`; without them, TFDS downloads what it has not.

    Args:
        name: `"cifar10"` or `"cifar100"`.
        data_dir: A TFDS data folder, or one that holds the archive, or that holds or is the
            archive's unpacked folder. What comes first in this order is taken.

    Returns:
        (images uint8 [N, 32, 32, 3], labels int64 [N]) to train on, the same to test on, the
        classes' names, and a line on the source.

    Raises:
        InputError: If there is no such data, or it is damaged.
    """
    archive = ARCHIVES[name]
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = Path(given or "~/tensorflow_datasets").expanduser()
    if given and not folder.is_dir():
        what = "not a folder" if folder.exists() else "missing"
        raise InputError(f"The data folder {folder} is {what}. {_how(name)}")
    if _versions(folder / name):
        return _from_tfds(name, folder)
    if (folder / archive.file).is_file():
        return _from_tar(name, folder / archive.file)
    for unpacked in (folder / archive.folder, folder):
        if any((unpacked / member).is_file() for member in _members(archive)):
            return _from_batches(name, unpacked, lambda member, at=unpacked: _file(at / member))
    if given:
        raise InputError(
            f"The data folder {folder} holds neither {name}/ (prepared by TFDS), {archive.file}, "
            f"nor {archive.folder}/. {_how(name)}"
        )
    _download(name, folder)
    return _from_tfds(name, folder)


def _how(name):
    return (
        f"Give --data-dir a folder that holds {ARCHIVES[name].file} or TFDS' {name}/, or leave it "
        "and TFDS_DATA_DIR out to download it, or take --dataset synthetic."
    )


def _versions(folder):
    """Returns the folders of the versions of a set that TFDS has prepared, the newest last."""
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    return sorted(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def _from_tfds(name, folder):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(_versions(folder / name)[-1])
        splits = [_tfds_split(builder, split) for split in ("train", "test")]
        class_names = builder.info.features["label"].names
    except Exception as error:  # TFDS and TensorFlow each raise their own
        raise InputError(
            f"The {name} in {folder} cannot be used ({_reason(error)}). {_how(name)}"
        ) from None
    _check(splits, class_names, ARCHIVES[name].classes, f"{folder / name}")
    return *splits, class_names, f"TFDS {name} {builder.version} in {folder}"


def _tfds_split(builder, split):
    features = builder.as_dataset(split=split, batch_size=-1)
    return features["image"].numpy(), features["label"].numpy()


def _download(name, folder):
    """Has TFDS download and prepare a set, which shows its progress."""
    import requests  # what TFDS downloads with
    import tensorflow_datasets as tfds

    try:
        # TFDS itself tries for minutes before it gives up, and leaves empty folders behind.
        requests.head(f"https://{HOST}/", timeout=30)
        tfds.builder(name, data_dir=folder).download_and_prepare()
    except requests.ConnectionError:
        raise InputError(
            f"{name} cannot be downloaded: {HOST} is out of reach. {_how(name)}"
        ) from None
    except Exception as error:  # TFDS, TensorFlow and the disk each raise their own
        raise InputError(f"{name} cannot be downloaded ({_reason(error)}). {_how(name)}") from None


def _reason(error):
    """Returns the first line of an error, without TensorFlow's names of operations."""
    lines = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", str(error)).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _from_tar(name, path):
    """Reads the members in memory: nothing is unpacked, so no path of theirs is followed."""
    expected = ARCHIVES[name]
    wanted = {f"{expected.folder}/{member}": member for member in _members(expected)}
    contents = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                _check_member(member, path)
                if member.name in wanted:
                    contents[wanted[member.name]] = tar.extractfile(member).read()
            while stream.read(2**20):  # the checksum of it all stands at the end
                pass
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}). Download it again.") from None

    def read(member):
        if member not in contents:
            raise InputError(f"{path} lacks {expected.folder}/{member}. Download it again.")
        return io.BytesIO(contents[member])

    return _from_batches(name, path, read)


def _check_member(member, path):
    """Raises an InputError for a member that no archive of a data set has."""
    if member.name.startswith("/") or ".." in Path(member.name).parts:
        raise InputError(f"{path} is refused: its member {member.name!r} leads outside.")
    if not (member.isreg() or member.isdir()):
        raise InputError(f"{path} is refused: its member {member.name!r} is a link or a device.")
    if member.size > LARGEST_MEMBER:
        raise InputError(
            f"{path} is refused: its member {member.name!r} has {member.size:,} bytes; "
            f"expected {LARGEST_MEMBER:,} at most."
        )


def _members(archive):
    return (*archive.train, *archive.test, archive.meta)


def _file(path):
    try:
        return io.BytesIO(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _from_batches(name, path, read):
    """Reads the batches of an archive, `read(member)` giving each as a binary file."""
    archive = ARCHIVES[name]

    def unpickle(member):
        try:
            return safe_pickle.load(read(member), encoding="latin1")
        except ValueError as error:
            raise InputError(f"{path}: its {member} is refused or damaged. {error}") from None

    try:
        class_names = list(unpickle(archive.meta)[archive.names])
        splits = []
        for members in (archive.train, archive.test):
            batches = [unpickle(member) for member in members]
            pixels = np.concatenate([np.asarray(batch["data"]) for batch in batches])
            labels = np.concatenate([np.asarray(batch[archive.labels]) for batch in batches])
            # Rows are planes: all red, all green, all blue.
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            splits.append((np.ascontiguousarray(images), labels))
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not {name}: {type(error).__name__}, {error}.") from None
    _check(splits, class_names, archive.classes, path)
    return *splits, class_names, f"{name} in {path}"


def _check(splits, class_names, classes, source):
    """Raises an InputError unless these are images with a label each, of named classes."""
    if len(class_names) != classes or not all(isinstance(name, str) for name in class_names):
        raise InputError(
            f"{source} is damaged: it names {len(class_names)} classes; expected the names of "
            f"{classes}, as text."
        )
    for images, labels in splits:
        fits = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and len(images)
        if not fits or labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise InputError(
                f"{source} is damaged: labels {labels.dtype} {labels.shape} for images "
                f"{images.dtype} {images.shape}; expected as many integers as uint8 images of "
                "32×32×3."
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"{source} is damaged: labels {labels.min()}–{labels.max()} of {classes} classes."
            )
