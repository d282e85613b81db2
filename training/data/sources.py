"""Data sets by name: a module with a function `load(name, data_dir)`, and a row here.

The table imports nothing, so that help texts can list it.
"""

import importlib

DATASETS = {
    "cifar100": "training.data.cifar",
    "cifar10": "training.data.cifar",
    "synthetic": "training.data.synthetic",
}


def load(name, data_dir=None):
    """Loads a data set into memory, whole.

    Args:
        name: A key of `DATASETS`.
        data_dir: Path of its folder, or `None`.

    Returns:
        (images uint8 [N, H, W, 3], integer labels [N]) to train on, the same to test on, a list of
        class names by label, and a string that names the source. All images have one size.
    """
    return importlib.import_module(DATASETS[name]).load(name, data_dir)
