"""Data sets that TensorFlow Datasets (TFDS) has prepared, or downloads.

`tfds:NAME` or `tfds:NAME/config:version` is any image classification set.
"""

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from training import console
from training.cli import InputError
from training.data import pictures, sources, store
from training.runs import files

TEST_SPLITS = ("test", "validation")  # the first that has labels becomes the test part


def load(name, options):
    """Returns the `sources.Loaded` of a set, whose test part is `None` if it has none."""
    builder = open_set(name, options.data_dir)
    image_key, label_key = features(builder)
    shape = builder.info.features[image_key].shape
    is_fixed = None not in shape[:2]
    resize = pictures.Resize(
        *options.height_and_width(shape[:2] if is_fixed else sources.SIZE),
        options.crop_fraction or (None if is_fixed else options.usual_crop),
    )
    splits = builder.info.splits
    if "train" not in splits:
        raise InputError(f"--dataset tfds:{name}: expected a split train; it has {[*splits]}.")

    def part(split):
        stored, labels = read(builder, split, resize, options.cache)
        images = store.Images(stored, resize, np.arange(len(labels)))
        if is_fixed and not isinstance(stored.pixels, np.memmap):
            images = images[:]  # an array, which is the fastest to read
        return images, labels

    test = next((s for s in TEST_SPLITS if s in splits and _has_labels(builder, s)), None)
    has_validation = test == "test" and "validation" in splits
    if has_validation and options.validation_split:
        raise InputError(
            f"--validation-split {options.validation_split}: tfds:{name} has a validation part. "
            "Leave out the option."
        )
    return sources.Loaded(
        part("train"),
        part(test) if test else None,
        list(builder.info.features[label_key].names),
        f"TFDS {builder.info.full_name} in {builder.data_dir}",
        resize,
        part("validation") if has_validation else None,
    )


def open_set(name, data_dir=None):
    """Returns the builder of a prepared set, which TFDS downloads if it is not there.

    Raises:
        InputError: If the set is unknown, cannot be prepared, or has no image or no label.
    """
    import tensorflow_datasets as tfds

    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        builder = tfds.builder(name, data_dir=folder.expanduser())
        if not builder.is_prepared():
            builder.download_and_prepare()
    except Exception as error:  # TFDS and the network each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise InputError(f"--dataset tfds:{name}: no usable set in {folder}: {reason}") from None
    features(builder)
    return builder


def features(builder):
    """Returns the keys of a set's image and its label; InputError if it has not one of each."""
    import tensorflow_datasets as tfds

    found = dict(builder.info.features.items())
    kinds = tfds.features.Image, tfds.features.ClassLabel
    # A set may have several labels, of which the supervised one is meant.
    given = builder.info.supervised_keys or found
    keys = [key for kind in kinds for key in given if isinstance(found.get(key), kind)]
    if len(keys) != 2 or not all(map(isinstance, (found[key] for key in keys), kinds)):
        raise InputError(
            f"--dataset tfds:{builder.info.full_name}: expected one image and one class label; it "
            f"has {', '.join(sorted(given))}."
        )
    return keys


def _has_labels(builder, split):
    """Whether a split has labels; the test splits of competitions have -1 in their place."""
    _, label_key = features(builder)
    (example,) = builder.as_dataset(split=split).take(1)
    return int(example[label_key]) >= 0


def read(builder, split, resize, cache):
    """Reads a split: decoded, scaled and kept in the cache's file, which a second call reads.

    Args:
        builder: What `open_set` returns.
        split: String, such as `"train"`.
        resize: A `pictures.Resize`.
        cache: `"memory"`: the pixels are read into memory; `"auto"`: if they fit; else they are
            mapped from the file.

    Returns:
        A `store.Stored`, and the labels, int64 [N].
    """
    key = f"{builder.info.full_name} {builder.data_dir} {split} {resize}"

    def is_complete(path):
        return path.is_file() and path.with_suffix(".npy").is_file()

    def write(path):
        rows = []
        files.write_atomically(path, lambda file: rows.extend(_write(builder, split, resize, file)))
        table = np.array(rows, np.int64)
        files.write_atomically(path.with_suffix(".npy"), lambda file: np.save(file, table))

    name = f"tfds-{hashlib.sha256(key.encode()).hexdigest()[:16]}.bin"
    path = files.cached(name, is_complete, write)
    rows = np.load(path.with_suffix(".npy"))
    if unknown := np.sum(rows[:, 2] < 0):
        raise InputError(
            f"--dataset tfds:{builder.info.full_name}: {unknown} images of the split {split} have "
            "no label (-1). Choose another set, or a folder of pictures."
        )
    total = int(3 * rows[:, :2].prod(-1).sum())
    in_memory = cache == "memory" or (cache == "auto" and store.choose(total, 0) == "memory")
    pixels = np.fromfile(path, np.uint8) if in_memory else np.memmap(path, np.uint8, "r")
    return store.Stored(pixels, rows[:, :2]), rows[:, 2]


def _write(builder, split, resize, path):
    """Writes the pixels of a split into a file, and yields each picture's height, width, label."""
    image_key, label_key = features(builder)
    examples = builder.as_dataset(split=split)
    count = int(examples.cardinality())
    with open(path, "wb") as file, console.progress(f"reading {split}", count) as advance:
        for example in examples:
            pixels = pictures.scale_pixels(example[image_key].numpy(), resize)
            file.write(pixels.tobytes())
            yield *pixels.shape[:2], int(example[label_key])
            advance()


def versions(folder):
    """Returns the folders of a data set's prepared versions, the newest last."""
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    return sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def load_arrays(name, folder, host):
    """Loads the newest version of a data set of images of one size, as `sources.DATASETS` has it.

    Args:
        name: String, the data set. TFDS downloads it if no version is prepared.
        folder: Path of the folder of all data sets.
        host: String, the server that TFDS downloads from.

    Raises:
        ValueError: If the server cannot be reached.
    """
    import requests  # TFDS downloads with it
    import tensorflow_datasets as tfds

    if not versions(folder / name):
        try:  # TFDS itself retries for minutes before it fails, and leaves empty folders behind
            requests.head(f"https://{host}/", timeout=30)
        except requests.ConnectionError:
            raise ValueError(f"{host} cannot be reached to download it") from None
        tfds.builder(name, data_dir=folder).download_and_prepare()
    builder = tfds.builder_from_directory(versions(folder / name)[-1])
    splits = [builder.as_dataset(split=split, batch_size=-1) for split in ("train", "test")]
    splits = [(split["image"].numpy(), split["label"].numpy()) for split in splits]
    class_names = builder.info.features["label"].names
    return *splits, class_names, f"TFDS {name} {builder.version} in {folder}"
