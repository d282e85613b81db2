"""Checkpoint files: reads them without running their code, and writes them."""

import importlib
import pickle
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_nam.weights import keras_files, safe_pickle
from keras_nam.weights.formats import bfloat16

# Errors of zipfile, zlib, NumPy and h5py on a damaged file.
DAMAGES = (
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    TypeError,
    MemoryError,
)
# PyTorch's format before 1.6 begins with a pickle of its magic number.
TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# The types of safetensors that NumPy has, and BF16.
SAFETENSORS_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?", "I64": "<i8"},
    **{"I32": "<i4", "I16": "<i2", "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2"},
    "U8": "<u1",
}


def read_checkpoint(path):
    """Returns the contents of a checkpoint file, usually a dictionary of arrays or dictionaries.

    Args:
        path: Path of a file. Its content decides how it is read, not its suffix.

    Raises:
        ValueError: If the file does not exist, if it is damaged or not a checkpoint, or if it would
            run code. The message names what it tried to import.
        ImportError: If it needs a package that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not an existing file")
    try:
        return _reader(path)(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except DAMAGES as error:
        reason = str(error).strip("'") or type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from None


def _reader(path):
    """Returns the function that reads a file, by its first bytes and a zip archive's members."""
    with path.open("rb") as file:
        start = file.read(len(TORCH_MAGIC))
    if start[:2] == b"PK":
        return _zip_reader(path)
    if start == TORCH_MAGIC:
        return read_torch
    if start[:1] == b"\x80":
        return read_pickle
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return keras_files.read
    if start[8:9] == b"{":
        return read_safetensors
    raise ValueError(
        f"it starts with {start[:8]!r}. Expected a file of PyTorch, Paddle, safetensors, NumPy "
        "(.npz) or Keras (.keras, .weights.h5)"
    )


def _zip_reader(path):
    if not zipfile.is_zipfile(path):
        raise ValueError("the zip archive is truncated")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if keras_files.MEMBER in names:
        return keras_files.read
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return read_torch
    if any(name.endswith(".npy") for name in names):
        return read_npz
    raise ValueError(f"the zip archive holds {names[:3]}, which is not a checkpoint")


def _import(name, install):
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ImportError(f"This format needs {package}: pip install {install}") from None


def _import_torch():
    return _import("torch", "torch, or use a .safetensors file")


def _import_safetensors(name="safetensors"):
    return _import(name, "'keras-nam[convert]'")


def read_torch(path):
    """Reads a file of `torch.save`: tensors, numbers, text, and stand-ins for a few other types."""
    torch = _import_torch()
    stand_ins = []
    for name, stand_in in safe_pickle.STAND_INS.items():
        stand_ins.append((stand_in, name))
        if name.startswith("numpy.core"):
            stand_ins.append((stand_in, name.replace("numpy.core", "numpy._core")))
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch lets errors of many types pass
        raise ValueError(_reason(str(error) or type(error).__name__)) from None


def _reason(message):
    """Returns one line of PyTorch's message, which may advise to run the file's code."""
    imported = re.search(r"GLOBAL ([\w.]+)", message)
    if imported:
        return f"it imports {imported[1]}, which weights do not need. Save the state dict alone"
    inner = re.search(r"WeightsUnpickler error: *(.+)", message)
    if message.startswith("Weights only load failed"):
        return inner[1] if inner else "it is not a pickle of tensors"
    return message.strip().splitlines()[0]


def read_safetensors(path):
    """Reads a safetensors file; bfloat16, which NumPy lacks, as float32."""
    safetensors = _import_safetensors()
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    arrays = {}
    for key, tensor in tensors:
        kind = tensor["dtype"]
        if kind not in SAFETENSORS_TYPES:
            arrays[key] = f"a tensor of type {kind}"
            continue
        values = np.frombuffer(tensor["data"], SAFETENSORS_TYPES[kind])
        values = bfloat16(values) if kind == "BF16" else values
        arrays[key] = values.reshape(tensor["shape"])
    return arrays


def read_npz(path):
    """Reads arrays of a NumPy archive."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def read_pickle(path):
    """Reads a pickle of arrays, such as `paddle.save` writes."""
    return safe_pickle.loads(path.read_bytes())


def write_torch(arrays, path):
    """Writes a state dict as `torch.save` does."""
    torch = _import_torch()
    torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, path)


def write_safetensors(arrays, path):
    """Writes a state dict as a safetensors file."""
    _import_safetensors("safetensors.numpy").save_file(arrays, path)


def write_paddle(arrays, path):
    """Writes a state dict as `paddle.save` does, with the table that makes it load as tensors."""
    table = {"StructuredToParameterName@@": {key: key for key in arrays}}
    with Path(path).open("wb") as file:
        pickle.dump({**arrays, **table}, file, protocol=4)
