"""Data sets that TensorFlow Datasets (TFDS) has prepared, or downloads."""

import re


def versions(folder):
    """Returns the folders of a data set's prepared versions, the newest last."""
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    return sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def load(name, folder, host):
    """Loads the newest version of a data set, which TFDS downloads if there is none.

    Args:
        name: String, the data set.
        folder: Path of the folder of all data sets.
        host: String, the server that TFDS downloads from.

    Returns:
        As `sources.load`.

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
