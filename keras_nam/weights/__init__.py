"""Checkpoints of PyTorch and Paddle into the models, and back."""

import re
import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_nam.weights import formats, nearest
from keras_nam.weights.files import read_checkpoint

__all__ = ["LoadReport", "load_weights", "to_paddle_state_dict", "to_torch_state_dict"]

# What training loops wrap a state dict in, and what DataParallel and torch.compile prepend.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = re.compile(r"(?:(?:module|_orig_mod|model|net)\.)+")
# NAM has no name of its own in weiaicunzai's networks: whoever adds it chooses one.
NAM_MODULE = re.compile(
    r"(?P<block>layer\d\.\d+|conv\d_x\.\d+|stage\d(?:\.\d+)?)(?:\.\w+)*"
    r"\.(?P<rest>(?:Channel|Spatial)_Att\..+)"
)


class LoadReport(NamedTuple):
    """What `load_weights` did with a checkpoint.

    Attributes:
        format: String, the checkpoint's format.
        loaded: List of keys.
        missing: List of keys that the model needs and the checkpoint does not have.
        unexpected: List of keys that the model has no place for.
        mismatched: List of (key, shape in the model, shape in the checkpoint).
    """

    format: str
    loaded: list
    missing: list
    unexpected: list
    mismatched: list

    @property
    def fits(self):
        """Whether the model and the checkpoint have the same keys and shapes."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self):
        shapes = [
            f"{key} (the model has {list(ours)}, the checkpoint {list(theirs)})"
            for key, ours, theirs in self.mismatched
        ]
        return (
            f"{len(self.loaded)} fit, "
            f"{_first(self.missing, 'missing')}, {_first(self.unexpected, 'unexpected')}, "
            f"{_first(shapes, 'of another shape')}"
        )


def load_weights(model, source, format="auto", strict=True):
    """Loads a checkpoint of PyTorch or Paddle into a model.

    Nothing is written into the model unless everything was read and fits. An optimizer's state is
    not carried over. float16 and bfloat16 become float32 exactly, float64 is rounded to it.

    Args:
        model: A model of `create_model`, or a built attention layer for a checkpoint of one.
        source: Path of a file (`.pth`, `.pt`, `.bin`, `.safetensors`, `.npz`, `.pdparams`), or a
            dictionary of arrays or tensors. Wrappers such as `{"state_dict": ...}`, prefixes such
            as `module.`, and what is not an array are taken off.
        format: `"official"` (Christian-lyc/NAM), `"torchvision"`, `"weiaicunzai"`
            (pytorch-cifar100), `"paddle"`, or `"auto"` to tell by the keys.
        strict: Whether the keys and shapes must be the same. If not, what fits is loaded.

    Returns:
        A `LoadReport`: the keys that were loaded, and those that were not.

    Raises:
        ValueError: If the file cannot be read or would run code, or the checkpoint does not fit
            the model; the message has the differences and the arch that it fits best.
        ImportError: If the file needs a package that is not installed.
    """
    if format not in ("auto", *formats.format_names()):
        raise ValueError(
            f"The `format` must be 'auto' or one of {formats.format_names()}. "
            f"Received: format={format!r}"
        )
    if not model.built:
        raise ValueError(f"{model.name!r} has no weights yet: build it, or call it, first.")
    arrays = state_dict(source)
    format = _detect(model, arrays) if format == "auto" else formats.ALIASES.get(format, format)
    entries = formats.entries(model, format)
    report = compare(entries, arrays, format)
    if (strict and not report.fits) or not report.loaded:
        fitting = nearest.describe(arrays)
        raise ValueError(
            f"The checkpoint is not one of {model.name!r}: {report}." + (fitting and f" {fitting}")
        )
    loaded = set(report.loaded)
    # Every array is converted before the first is written: a failure leaves the model as it was.
    values = [
        (entry.variable, entry.layout.to_keras(_as_float32(entry.key, arrays[entry.key])))
        for entry in entries
        if entry.key in loaded
    ]
    _warn_of_non_finite(values)
    for variable, value in values:
        variable.assign(value)
    return report


def to_torch_state_dict(model, format="official"):
    """Returns a model's weights as PyTorch's state dict.

    Args:
        model: A model of `create_model`, or a built attention layer.
        format: `"official"` (Christian-lyc/NAM), `"torchvision"`, its names for ResNets, or
            `"weiaicunzai"` (pytorch-cifar100). A MobileNetV2 has weiaicunzai's names in each.

    Returns:
        Dictionary of arrays, float32 in PyTorch's layouts, the `num_batches_tracked` int64 zeros.
        `{k: torch.from_numpy(v) for k, v in arrays.items()}` is what `load_state_dict` takes.

    Raises:
        ValueError: If the format is not known, or has no name for a layer of the model.
    """
    format = formats.ALIASES.get(format, format)
    if format not in formats.FORMATS or format == "paddle":
        names = [name for name in formats.format_names() if name != "paddle"]
        raise ValueError(f"The `format` must be one of {names}. Received: format={format!r}")
    return _state_dict_of(model, format)


def to_paddle_state_dict(model):
    """Returns a model's weights as Paddle's state dict.

    Args:
        model: A model of `create_model`, or a built attention layer.

    Returns:
        Dictionary of float32 arrays in Paddle's layouts, for `paddle.save` or `set_state_dict`.

    Raises:
        ValueError: If Paddle's names do not cover a layer of the model.
    """
    return _state_dict_of(model, "paddle")


def state_dict(source):
    """Returns a path's or dictionary's arrays by their keys, without wrappers and prefixes."""
    contents = source if isinstance(source, dict) else read_checkpoint(source)
    # No deeper than there are wrappers: a pickled dictionary may hold itself.
    for _ in WRAPPERS:
        if isinstance(contents, dict):
            inner = (contents[w] for w in WRAPPERS if isinstance(contents.get(w), dict))
            contents = next(inner, contents)
    arrays = {}
    for key, value in contents.items() if isinstance(contents, dict) else ():
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            continue
        name = PREFIXES.sub("", str(key)) if PREFIXES.match(str(key)) else str(key)
        match = NAM_MODULE.fullmatch(name)
        renamed = f"{match['block']}.nam.{match['rest']}" if match else name
        # Two that would take one name are both kept, and the odd one is reported.
        arrays[str(key) if renamed in arrays else renamed] = value
    if not arrays:
        raise ValueError(f"No array in the checkpoint. Received: {_contents_of(contents)}")
    return arrays


def compare(entries, arrays, format):
    """Returns the `LoadReport` of arrays against the entries of a model in a format."""
    ours = {entry.key: entry.shape for entry in entries}
    counters = (".num_batches_tracked", "num_batches_tracked")
    theirs = {
        key: tuple(array.shape) for key, array in arrays.items() if not key.endswith(counters)
    }
    common = [key for key in ours if key in theirs]
    return LoadReport(
        format=format,
        loaded=[key for key in common if ours[key] == theirs[key]],
        missing=[key for key in ours if key not in theirs],
        unexpected=[key for key in theirs if key not in ours],
        mismatched=[(key, ours[key], theirs[key]) for key in common if ours[key] != theirs[key]],
    )


def _detect(model, arrays):
    """Returns the format with the most of the keys, and among equals with the most of the shapes.

    Of a layer without statistics, it is the shapes that tell Paddle's transposed Linear.
    """

    def agreement(format):
        report = compare(formats.entries(model, format), arrays, format)
        return len(report.loaded) + len(report.mismatched), len(report.loaded)

    return max(formats.FORMATS, key=agreement)


def _state_dict_of(model, format):
    row = formats.FORMATS[format]
    arrays = {}
    for entry in formats.entries(model, format):
        value = keras.ops.convert_to_numpy(keras.ops.cast(entry.variable, "float32"))
        arrays[entry.key] = entry.layout.from_keras(value)
        if row.counts_batches and entry.key.endswith("running_var"):
            counter = entry.key.replace("running_var", "num_batches_tracked")
            arrays[counter] = np.zeros((), np.int64)
    return arrays


def _as_float32(key, value):
    if hasattr(value, "detach"):
        # PyTorch's bfloat16 has no NumPy type; float() is exact.
        value = value.detach().cpu()
        value = value.float() if value.dtype.is_floating_point else value
    value = np.asarray(value)
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise ValueError(f"{key} is not of a floating-point type. Received: dtype={value.dtype}")
    with np.errstate(over="ignore"):  # reported below, as not finite
        return value.astype(np.float32)


def _warn_of_non_finite(values):
    paths = [variable.path for variable, value in values if not np.isfinite(value).all()]
    if paths:
        warnings.warn(
            f"The checkpoint holds NaN or infinite numbers: {_first(paths, 'weights')}",
            stacklevel=3,
        )


def _first(items, what, count=3):
    listed = ", ".join(str(item) for item in items[:count])
    more = ", ..." if len(items) > count else ""
    return f"{len(items)} {what}" + (f" ({listed}{more})" if items else "")


def _contents_of(contents):
    return list(contents)[:3] if isinstance(contents, dict) else type(contents).__name__
