"""Checkpoint files: those that PyTorch wrote, and makers of malicious ones."""

import os
import zipfile
from pathlib import Path

# Written by PyTorch 2.13: see the README beside them.
CHECKPOINTS = Path(__file__).parents[1] / "keras_nam" / "checkpoints"
SHAPES = {
    "bn2.weight": [16],
    "bn2.bias": [16],
    "bn2.running_mean": [16],
    "bn2.running_var": [16],
}


class RunsOnLoad:
    """Pickles as a call of `os.system`: what a malicious file holds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path
