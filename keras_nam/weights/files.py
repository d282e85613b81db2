"""Checkpoint files: reading them without running what they carry, and writing them."""

import math
import pickle
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_nam import safe_pickle
from keras_nam.weights import torch_zip

# What a damaged archive raises on its way through zipfile, zlib and NumPy.
DAMAGES = (
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
)


def read_checkpoint(path):
    """Returns what a checkpoint file holds, usually a dictionary of arrays or of wrappers.

    Args:
        path: Path of a file; its suffix, a key of `READERS`, says how to read it.

    Raises:
        ValueError: If there is no such file, it is damaged or not what its name says, or it would
            run code; the message names what it tried to import.
        ImportError: If it needs a package that is not installed.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} has no suffix of a checkpoint: one of {', '.join(READERS)}")
    if not path.is_file():
        raise ValueError(f"There is no file {path}")
    try:
        return reader(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except DAMAGES as error:
        raise ValueError(f"{path} is not a whole {path.suffix} checkpoint: {error}") from None


def read_torch(path):
    """Reads a PyTorch checkpoint, tensors alone, by PyTorch if that is installed."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        torch_zip.check_sizes(path)
    else:
        _check_is_pickle(path)
    try:
        import torch
    except ImportError:
        if not is_zip:
            raise ValueError(
                "it is in the format from before PyTorch 1.6, which only PyTorch reads: "
                "install torch"
            ) from None
        return torch_zip.read(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises what its own readers run into
        raise ValueError(_reason(str(error) or type(error).__name__)) from None


def _check_is_pickle(path):
    """Raises a ValueError unless the file starts as a binary pickle does."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[:2] == b"PK":
        raise ValueError("the zip archive is truncated")
    if start[:1] != b"\x80":
        raise ValueError(f"it is neither a zip archive nor a pickle, it starts with {start!r}")


def _reason(message):
    """Returns one line of PyTorch's many, some of which advise to run what the file carries."""
    imported = re.search(r"(?:GLOBAL|import|class) ([\w.]+\.[\w.]+)", message)
    if "nsupported" in message and imported:
        return f"it imports {imported[1]}, which a file of tensors does not need"
    inner = re.search(r"WeightsUnpickler error: *(.+)", message)
    if message.startswith("Weights only load failed"):
        return inner[1] if inner else "it is not a pickle of tensors"
    return message.strip().splitlines()[0]


# The types of safetensors that NumPy has; BF16 comes as the upper half of float32's bits.
SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8"}


def read_safetensors(path):
    """Reads a safetensors file; bfloat16, which NumPy lacks, as float32."""
    try:
        import safetensors
    except ImportError:
        raise ImportError(
            "Reading safetensors needs that package: pip install 'keras-nam[convert]'"
        ) from None
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None
    arrays = {}
    for key, tensor in tensors:
        if tensor["dtype"] not in SAFETENSORS_TYPES:
            raise ValueError(f"{key} is of type {tensor['dtype']}")
        values = torch_zip.from_bytes(tensor["data"], SAFETENSORS_TYPES[tensor["dtype"]])
        arrays[key] = values.reshape(tensor["shape"])
    return arrays


def read_npz(path):
    """Reads arrays of a NumPy archive; the declared sizes are checked against the file first."""
    torch_zip.check_sizes(path)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                arrays[info.filename.removesuffix(".npy")] = _read_npy(archive, info)
    return arrays


def _read_npy(archive, info):
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"{info.filename} is of version {version}")
        shape, is_fortran, dtype = header(file)
        size, held = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if dtype.hasobject or size != held:
            raise ValueError(
                f"{info.filename} declares {list(shape)} of {dtype}, {size} bytes, and holds {held}"
            )
        return np.frombuffer(file.read(size), dtype).reshape(shape, order="FC"[not is_fortran])


def read_paddle(path):
    """Reads what `paddle.save` wrote, a pickle of arrays; bfloat16, there uint16, as float32."""
    with path.open("rb") as file:
        contents = safe_pickle.load(file)
    if not isinstance(contents, dict):
        raise ValueError(f"it holds a {type(contents).__name__}, not a dictionary")
    return {
        key: torch_zip.bfloat16(value)
        if isinstance(value, np.ndarray) and value.dtype == np.uint16
        else value
        for key, value in contents.items()
    }


READERS = {
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    ".pdparams": read_paddle,
}


def write_torch(arrays, path):
    """Writes a state dict as `torch.save` does."""
    try:
        import torch
    except ImportError:
        raise ImportError(
            "Writing PyTorch's format needs PyTorch: install torch, or write a .safetensors file"
        ) from None
    torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, path)


def write_safetensors(arrays, path):
    """Writes a state dict as a safetensors file."""
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise ImportError(
            "Writing safetensors needs that package: pip install 'keras-nam[convert]'"
        ) from None
    save_file(arrays, path)


def write_paddle(arrays, path):
    """Writes a state dict as `paddle.save` does, with the table that makes it load as tensors."""
    table = {"StructuredToParameterName@@": {key: key for key in arrays}}
    with Path(path).open("wb") as file:
        pickle.dump({**arrays, **table}, file, protocol=4)
