"""CIFAR-10 and CIFAR-100, prepared by TFDS, or as the archive from Toronto."""

import io
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_nam import safe_pickle
from training.cli import InputError


class Archive(NamedTuple):
    """What the archive of a set holds: its folder, its files, and their keys."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str
    classes: int


ARCHIVES = {
    "cifar100": Archive(
        "cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names", 100
    ),
    "cifar10": Archive(
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "labels",
        "label_names",
        10,
    ),
}
ARCHIVE_NAMES = {"cifar100": "cifar-100-python.tar.gz", "cifar10": "cifar-10-python.tar.gz"}
LARGEST_MEMBER = 400_000_000  # bytes; the largest true one, CIFAR-100's `train`, has 155 million


def load(name, data_dir=None):
    """Loads from `data_dir` or `TFDS_DATA_DIR`, or else has TFDS download the set.

    Args:
        name: `"cifar10"` or `"cifar100"`.
        data_dir: A TFDS data folder, or one that holds the archive or is its unpacked folder.

    Returns:
        (images uint8 [N, 32, 32, 3], labels int64 [N]) to train on, the same to test on, the
        classes' names, and a line on the source.

    Raises:
        InputError: If there is no such data, or it is damaged.
    """
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    if folder is None:
        return _from_tfds(name, None, download=True)
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The data folder {folder} is missing. {_how(name)}")
    archive = folder / ARCHIVE_NAMES[name]
    for unpacked in (folder / ARCHIVES[name].folder, folder):
        if (unpacked / ARCHIVES[name].meta).is_file():
            return _from_archive(name, unpacked, lambda member, at=unpacked: _file(at / member))
    if (folder / name).is_dir():
        return _from_tfds(name, folder, download=False)
    if archive.is_file():
        return _from_tar(name, archive)
    raise InputError(
        f"The data folder {folder} holds neither {name}/ (prepared by TFDS), {archive.name}, "
        f"nor {ARCHIVES[name].folder}/. {_how(name)}"
    )


def _how(name):
    return (
        f"Give --data-dir a folder that holds {ARCHIVE_NAMES[name]} or TFDS' {name}/, or leave it "
        "and TFDS_DATA_DIR out to download it, or take --dataset synthetic."
    )


def _from_tfds(name, folder, download):
    import tensorflow_datasets as tfds

    if not download:
        tfds.display_progress_bar(False)
    try:
        builder = tfds.builder(name, data_dir=folder)
        if download:
            builder.download_and_prepare()
        splits = [_tfds_split(builder, split) for split in ("train", "test")]
    except Exception as error:  # TFDS, TensorFlow and the network each raise their own
        where = f"The data in {folder}" if folder else f"The download of {name}"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{where} cannot be used ({reason[:200]}). {_how(name)}") from None
    names = builder.info.features["label"].names
    for images, labels in splits:
        _check(images, labels, len(names), f"TFDS {name}")
    source = f"TFDS {name} {builder.version} in {folder or builder.data_path.parent.parent}"
    return *splits, list(names), source


def _tfds_split(builder, split):
    features = builder.as_dataset(split=split, batch_size=-1)
    return features["image"].numpy(), features["label"].numpy().astype(np.int64)


def _from_tar(name, path):
    """Reads the members in memory: nothing is unpacked, so no path of theirs is followed."""
    expected = ARCHIVES[name]
    wanted = {f"{expected.folder}/{member}": member for member in _members(expected)}
    contents = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.startswith("/") or ".." in Path(member.name).parts:
                    raise InputError(
                        f"{path} is refused: its member {member.name!r} leads outside."
                    )
                if member.name not in wanted:
                    continue
                if not member.isreg() or member.size > LARGEST_MEMBER:
                    raise InputError(
                        f"{path} is refused: its member {member.name!r} is no file of a data set."
                    )
                contents[wanted[member.name]] = tar.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}). Download it again.") from None

    def read(member):
        if member not in contents:
            raise InputError(f"{path} lacks {expected.folder}/{member}. Download it again.")
        return io.BytesIO(contents[member])

    return _from_archive(name, path, read)


def _members(archive):
    return (*archive.train, *archive.test, archive.meta)


def _file(path):
    try:
        return io.BytesIO(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _from_archive(name, path, read):
    """Reads the batches of an archive, `read(member)` giving each as a binary file."""
    archive = ARCHIVES[name]

    def unpickle(member):
        try:
            return safe_pickle.load(read(member), encoding="latin1")
        except ValueError as error:
            raise InputError(f"{path}: its {member} is refused or damaged. {error}") from None

    try:
        class_names = list(unpickle(archive.meta)[archive.names])
        parts = []
        for members in (archive.train, archive.test):
            batches = [unpickle(member) for member in members]
            pixels = np.concatenate([np.asarray(batch["data"]) for batch in batches])
            labels = np.concatenate([np.asarray(batch[archive.labels]) for batch in batches])
            # Rows are planes: all red, all green, all blue.
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            parts.append((np.ascontiguousarray(images), labels.astype(np.int64)))
            _check(*parts[-1], archive.classes, path)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not {name}: {type(error).__name__}, {error}.") from None
    return *parts, class_names, f"{name} in {path}"


def _check(images, labels, classes, source):
    """Raises an InputError unless these are images with a label each."""
    fits = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and len(images)
    if not fits or labels.shape != images.shape[:1]:
        raise InputError(
            f"{source} is damaged: {len(labels)} labels for images {images.dtype} {images.shape}; "
            "expected as many uint8 ones of 32×32×3."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{source} is damaged: labels {labels.min()}–{labels.max()} of {classes} classes."
        )
