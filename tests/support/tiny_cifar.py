"""Tiny sets in the forms that CIFAR comes in, for the tests to write and to damage."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from training.cli import InputError
from training.data import cifar, datasets


def batch(name, count, seed=0):
    """Returns a batch as the archive of a set has it: rows of planes, a list of labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = rng.integers(0, cifar.ARCHIVES[name].classes, count).tolist()
    return {"data": pixels, cifar.ARCHIVES[name].labels: labels}


def members(name="cifar100", count=4):
    """Returns the members of the archive of a set, unpickled."""
    archive = cifar.ARCHIVES[name]
    batches = {
        member: batch(name, count, seed)
        for seed, member in enumerate((*archive.train, *archive.test))
    }
    return {**batches, archive.meta: {archive.names: [f"c{i}" for i in range(archive.classes)]}}


def pickled(content):
    return content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)


def write_tar(folder, name="cifar100", contents=None, extra=()):
    """Writes the archive of a set; `extra` are `TarInfo` of members without content."""
    archive = cifar.ARCHIVES[name]
    path = folder / archive.file
    with tarfile.open(path, "w:gz") as tar:
        for member, content in (contents or members(name)).items():
            info = tarfile.TarInfo(f"{archive.folder}/{member}")
            info.size = len(pickled(content))
            tar.addfile(info, io.BytesIO(pickled(content)))
        for info in extra:
            tar.addfile(info)
    return path


def write_unpacked(folder, name="cifar100", contents=None):
    unpacked = folder / cifar.ARCHIVES[name].folder
    unpacked.mkdir()
    for member, content in (contents or members(name)).items():
        (unpacked / member).write_bytes(pickled(content))
    return unpacked


def write_tfds(folder, name="cifar100", count=4, version="3.0.2"):
    """Writes a set as TFDS prepares it: `count` black images of label 1 in each split."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=[f"c{i}" for i in range(100)]),
        }
    )
    prepared = folder / name / version
    prepared.mkdir(parents=True)
    example = {"image": np.zeros((32, 32, 3), np.uint8), "label": 1}
    serialized = features.serialize_example(features.encode_example(example))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = []
    for split in ("train", "test"):
        file = prepared / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for _ in range(count):
                writer.write(serialized)
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[count],
                num_bytes=count * len(serialized),
                filename_template=tfds.core.ShardedFileTemplate(prepared, template, name),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(prepared), features=features, split_infos=splits, version=version
    )
    return prepared


def refusal(*args, **kwargs):
    """Returns the message of the InputError that loading ends with."""
    with pytest.raises(InputError) as caught:
        datasets.load(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
