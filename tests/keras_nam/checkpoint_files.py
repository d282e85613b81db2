"""Checkpoint files: those that PyTorch wrote, and makers of damaged and malicious ones."""

import os
import zipfile
from pathlib import Path

# Written by PyTorch 2.13: see the README beside them.
CHECKPOINTS = Path(__file__).parent / "checkpoints"
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


def torch_pickle(shape, strides, count, name="_rebuild_tensor_v2"):
    """Returns the `data.pkl` of `{"weight": tensor}`, with sizes that need not be true."""

    def integers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    return (
        b"\x80\x02}X\x06\x00\x00\x00weight"
        + b"ctorch._utils\n%s\n(" % name.encode()
        + (storage + b"I%d\ntQ" % count)
        + (b"I0\n" + integers(shape) + integers(strides) + b"I00\n}tRs.")
    )


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def torch_file(path, shape=(4,), strides=(1,), count=4, storage=bytes(16), **kwargs):
    members = {"data.pkl": torch_pickle(shape, strides, count, **kwargs), "data/0": storage}
    return write_zip(path, {**members, "version": b"3\n"})
