"""PyTorch's zip checkpoints without PyTorch: tensors, and nothing else."""

import collections
import os
import zipfile

import numpy as np

from keras_nam import safe_pickle

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
# Deflate cannot pack more than 1032 bytes into one.
MAXIMUM_RATIO = 1100


def read(path):
    """Returns what a zip checkpoint holds, its tensors as NumPy arrays, bfloat16 as float32.

    Args:
        path: Path of a file that `torch.save` wrote, PyTorch 1.6 or newer.

    Raises:
        ValueError: If the file is damaged, or imports anything but tensors; the message names
            what it tried to import.
    """
    check_sizes(path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"a zip archive with {len(pickles)} data.pkl, where PyTorch has one")
        with archive.open(pickles[0]) as file:
            return safe_pickle.run(
                TensorUnpickler(file, archive, pickles[0].removesuffix("data.pkl"))
            )


def check_sizes(path):
    """Raises a ValueError if a zip archive declares a member that the file has no room for."""
    held = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            stored = info.compress_type == zipfile.ZIP_STORED
            most = info.compress_size * (1 if stored else MAXIMUM_RATIO)
            if info.compress_size > held or info.file_size > most:
                raise ValueError(
                    f"{info.filename} declares {info.file_size} bytes, in a file of {held}"
                )


def bfloat16(bits):
    """Returns the float32 array of bfloat16 numbers given as uint16: float32's upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_bytes(data, dtype):
    """Returns the flat array of some bytes; `"bfloat16"` is a type too."""
    return (
        bfloat16(np.frombuffer(data, "<u2")) if dtype == "bfloat16" else np.frombuffer(data, dtype)
    )


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """What `torch._utils._rebuild_tensor_v2` does, the sizes checked against the storage first."""
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape} and strides {strides} at {offset}")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.size:
        raise ValueError(
            f"a tensor declares the shape {list(shape)}, its storage holds {storage.size} numbers"
        )
    strides = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


def _rebuild_parameter(tensor, *_):
    return tensor


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class TensorUnpickler(safe_pickle.Unpickler):
    """The restricted unpickler for PyTorch's tensors.

    Args:
        file: The archive's `data.pkl`, opened.
        archive: The `zipfile.ZipFile`, in which each storage is a member.
        root: String, the members' common folder, with its slash.
    """

    def __init__(self, file, archive, root):
        super().__init__(file, allowed=ALLOWED)
        self._archive = archive
        self._root = root
        self._storages = {}
        if f"{root}byteorder" in archive.namelist() and self._member("byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine, which only PyTorch reads")

    def _member(self, name):
        with self._archive.open(self._root + name) as file:
            return file.read()

    def persistent_load(self, pid):
        """Returns the storage that a pickle refers to, read once."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            storage = from_bytes(self._member(f"data/{key}"), dtype)
            if storage.size < count:
                raise ValueError(f"a storage declares {count} numbers and holds {storage.size}")
            self._storages[key] = storage
        return self._storages[key]
