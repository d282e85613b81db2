"""CIFAR-10 and CIFAR-100: prepared by TFDS, or the archive from Toronto."""

import gzip
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_nam.weights import safe_pickle
from training.cli import InputError


class Archive(NamedTuple):
    """The archive of a data set: its names, and the keys of its pickles."""

    file: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str
    classes: int

    @property
    def files(self):
        return (*self.train, *self.test, self.meta)


CIFAR100 = Archive(
    *("cifar-100-python.tar.gz", "cifar-100-python", ("train",), ("test",)),
    *("meta", "fine_labels", "fine_label_names", 100),
)
CIFAR10 = Archive(
    *("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    *(tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)),
    *("batches.meta", "labels", "label_names", 10),
)
ARCHIVES = {"cifar100": CIFAR100, "cifar10": CIFAR10}
HOST = "www.cs.toronto.edu"
LARGEST_FILE = 400_000_000  # bytes; the largest real one, CIFAR-100's `train`, has 155 million


def load(name, data_dir=None):
    """Loads `"cifar10"` or `"cifar100"`.

    Args:
        name: String, the data set.
        data_dir: A folder with the set as prepared by TFDS, its archive, or the unpacked archive.
            By default `TFDS_DATA_DIR`, or TFDS' own folder, into which it is downloaded.

    Returns:
        (images uint8 [N, 32, 32, 3], labels int64 [N]) to train on, the same to test on, the class
        names, and a string that names the source.

    Raises:
        InputError: If there is no such data, or it is damaged.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = Path(given or "~/tensorflow_datasets").expanduser()
    archive, classes = ARCHIVES[name], ARCHIVES[name].classes
    try:
        train, test, class_names, source = _read(name, archive, folder, is_given=bool(given))
        if len(class_names) != classes or not all(isinstance(name, str) for name in class_names):
            raise ValueError(f"expected {classes} class names, as text")
        for images, labels in (train, test):
            is_whole = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and len(images)
            if not is_whole or len(labels) != len(images) or not set(labels) <= set(range(classes)):
                raise ValueError(
                    f"images {images.dtype} {images.shape}, {len(labels)} labels; expected uint8 "
                    f"images of 32×32×3, with a label from 0 to {classes - 1} each"
                )
    except Exception as error:  # TFDS, TensorFlow, tarfile and the disk each raise their own
        # Without TensorFlow's names of operations.
        reason = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", str(error)).strip() or type(error).__name__
        raise InputError(
            f"No usable {name} in {folder}: {reason.splitlines()[0][:300]}. Give --data-dir a "
            f"folder with {name}/ (prepared by TFDS), {archive.file} or {archive.folder}/, leave "
            "out --data-dir and TFDS_DATA_DIR to download it, or use --dataset synthetic."
        ) from None
    return train, test, class_names, source


def _read(name, archive, folder, is_given):
    if _versions(folder / name):
        return _from_tfds(name, folder)
    contents = _read_tar(archive, folder / archive.file)
    contents = contents or _read_folder(archive, folder / archive.folder)
    contents = contents or _read_folder(archive, folder)
    if contents:
        return *_from_pickles(archive, contents), f"{name} in {folder}"
    if is_given:
        raise ValueError("there is none" if folder.is_dir() else "this is not a folder")
    return _from_tfds(name, folder)


def _versions(folder):
    """Returns the folders of the versions that TFDS has prepared, the newest last."""
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    return sorted(versions, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def _from_tfds(name, folder):
    import requests  # what TFDS downloads with
    import tensorflow_datasets as tfds

    if not _versions(folder / name):
        try:  # TFDS itself tries for minutes before it gives up, and leaves empty folders behind
            requests.head(f"https://{HOST}/", timeout=30)
        except requests.ConnectionError:
            raise ValueError(f"{HOST} cannot be reached to download it") from None
        tfds.builder(name, data_dir=folder).download_and_prepare()
    builder = tfds.builder_from_directory(_versions(folder / name)[-1])
    splits = [builder.as_dataset(split=split, batch_size=-1) for split in ("train", "test")]
    splits = [(split["image"].numpy(), split["label"].numpy()) for split in splits]
    class_names = builder.info.features["label"].names
    return *splits, class_names, f"TFDS {name} {builder.version} in {folder}"


def _read_tar(archive, path):
    """Returns the files of the archive that are needed; nothing is written to the disk."""
    if not path.is_file():
        return {}
    contents = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                folder, _, file = tarfile.data_filter(member, path.parent).name.rpartition("/")
                if folder == archive.folder and file in archive.files and member.isreg():
                    if member.size > LARGEST_FILE:
                        raise ValueError(f"{file} in {path.name} has {member.size} bytes")
                    contents[file] = tar.extractfile(member).read()
            while stream.read(2**20):  # the checksum is at the end
                pass
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ValueError(f"{path.name} is damaged or refused: {error}") from None
    if not contents:
        raise ValueError(f"{path.name} has no {archive.folder}/")
    return contents


def _read_folder(archive, folder):
    paths = [folder / file for file in archive.files]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


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
        images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [label for batch in batches for label in batch[archive.labels]]
        if not all(type(label) is int for label in labels):
            raise ValueError("there are labels that are not integers")
        return np.ascontiguousarray(images), np.array(labels)

    class_names = list(unpickle(archive.meta)[archive.names])
    return split(archive.train), split(archive.test), class_names
