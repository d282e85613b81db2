"""Data sets by name: a module with a function `load(name, data_dir)`, and a row here.

The table imports nothing, so that help texts can list it.
"""

import importlib

# Each name's module, imported when it is asked for.
DATASETS = {
    "cifar100": "training.data.cifar",
    "cifar10": "training.data.cifar",
    "synthetic": "training.data.synthetic",
}


def load(name, data_dir=None):
    """Returns ((images, labels) to train on, the same to test on, class names, source)."""
    return importlib.import_module(DATASETS[name]).load(name, data_dir)
