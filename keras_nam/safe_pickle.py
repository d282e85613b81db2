"""Reading pickles of arrays without running any code that they carry."""

import pickle

import numpy as np

# Stands for the class, which a pickle could otherwise call with a shape of its own choice.
_NDARRAY = "numpy.ndarray"


def _empty_array(subtype, shape, typecode):
    """What `numpy.core.multiarray._reconstruct` does for a pickled array, and nothing more."""
    if subtype is not _NDARRAY or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array that starts as {subtype} of shape {shape}")
    return np.ndarray((0,), dtype=np.int8)


def _encode(text, encoding="latin1"):
    """Python 3 pickles bytes for protocol 2 as `_codecs.encode(text, "latin1")`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _empty_bytes():
    """Protocols up to 2 pickle `b""`, an empty array's content too, as `bytes()`."""
    return b""


ARRAY_GLOBALS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
}


class Unpickler(pickle.Unpickler):
    """An unpickler that knows the globals it is given and refuses every other by its name.

    Args:
        file: A binary file, positioned at the pickle.
        allowed: Dictionary `(module, name) -> object`. Defaults to what arrays need.
        **kwargs: `encoding` and `errors` of `pickle.Unpickler`.

    Raises:
        pickle.UnpicklingError: From `load()`, on any global that is not in `allowed`.
    """

    def __init__(self, file, allowed=None, **kwargs):
        super().__init__(file, **kwargs)
        self._allowed = ARRAY_GLOBALS if allowed is None else allowed

    def find_class(self, module, name):
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it imports {module}.{name}, which a file of arrays does not need"
            ) from None


def load(file, encoding="ASCII"):
    """Returns what the pickle in `file` holds: arrays, numbers, text, and containers of them.

    Args:
        file: A binary file, positioned at the pickle.
        encoding: How text of a Python 2 pickle is decoded; `"latin1"` or `"bytes"` for its arrays.

    Raises:
        ValueError: If the file is not a whole pickle, or imports anything but arrays; the
            message names what it tried to import.
    """
    return run(Unpickler(file, encoding=encoding))


def run(unpickler):
    """Returns what an unpickler reads.

    Raises:
        ValueError: Whatever goes wrong, as `load` says it.
    """
    try:
        return unpickler.load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"Not a pickle of arrays: {error or 'the file ends too early'}") from None
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise ValueError(
            f"Not a pickle of arrays: {type(error).__name__} while reading it ({error})"
        ) from None
