"""Loads checkpoints of PyTorch, Paddle and Keras into the models, and writes them."""

import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_nam.weights import formats, keras_files
from keras_nam.weights.files import read_checkpoint
from keras_nam.weights.selection import select

__all__ = ["LoadReport", "load_weights", "to_paddle_state_dict", "to_torch_state_dict"]


class LoadReport(NamedTuple):
    """The result of `load_weights`.

    Attributes:
        format: String, the checkpoint's format.
        loaded: List of keys.
        missing: List of keys that the model needs and the checkpoint does not have.
        unexpected: List of keys that only the checkpoint has.
        mismatched: List of (key, shape in the model, shape in the checkpoint).
        weights: String, where in the checkpoint the weights were found, or `""`.
        others: List of the names of other weights that would fit, such as averaged ones.
        ignored: List of the names of other contents, such as an optimizer's state.
    """

    format: str
    loaded: list
    missing: list
    unexpected: list
    mismatched: list
    weights: str = ""
    others: tuple | list = ()
    ignored: tuple | list = ()

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


def load_weights(model, source, format="auto", strict=True, weights=None):
    """Loads a checkpoint of PyTorch, Paddle or Keras into a model.

    The model is changed only after everything was read and fits. An optimizer's state is ignored.
    float16 and bfloat16 become float32 exactly; float64 is rounded.

    Args:
        model: A model of `create_model`, or a built attention layer for a checkpoint of one. From
            a Keras file, any Keras model: its layers are matched by name, so each needs its own.
            Vocabularies are not loaded.
        source: Path of a file of PyTorch, Paddle, safetensors, NumPy (`.npz`) or Keras (`.keras`,
            `.weights.h5`), with any suffix, or a dictionary of arrays or tensors. The weights may
            be in dictionaries such as `{"state_dict": ...}` and under prefixes such as `module.`.
            Counters and values other than arrays are ignored.
        format: `"official"` (Christian-lyc/NAM), `"torchvision"`, `"weiaicunzai"`
            (pytorch-cifar100), `"paddle"`, `"keras"`, or `"auto"` to choose by the keys.
        strict: Whether the keys and shapes must be the same. If not, what fits is loaded.
        weights: String, the weights to load where a checkpoint holds several, such as
            `"state_dict_ema"`. By default the weights that are not averaged, with a warning.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: If the file cannot be read or would run code, or if the checkpoint does not
            fit the model. The message lists the differences.
        ImportError: If the file needs a package that is not installed.
    """
    _check_built(model)
    selection = find(model, source, format, weights)
    entries = entries_of(model, selection.format)
    report = _compare(entries, selection)
    if (strict and not report.fits) or not report.loaded:
        hint = " strict=False loads what fits." if strict and report.loaded else ""
        if report.format == "keras":
            hint += " Layers are matched by name, and automatic names differ between sessions."
        raise ValueError(f"The checkpoint does not fit {model.name!r}: {report}.{hint}")
    # Every array is converted before the first is written: a failure leaves the model unchanged.
    loaded = set(report.loaded)
    values = []
    for variable, key, layout in entries:
        if key in loaded:
            is_float = "float" in keras.backend.standardize_dtype(variable.dtype)
            array = (_as_float32 if is_float else _as_integers)(key, selection.arrays[key])
            values.append((variable, key, layout.to_keras(array)))
    _warn_of_non_finite(values)
    if report.others and weights is None:
        warnings.warn(
            f"The checkpoint holds several weights. Loaded {report.weights!r}, not "
            f"{_first(report.others, 'others')}. Choose with weights= or --weights.",
            stacklevel=2,
        )
    if report.format == "keras":
        keras_files.load(model, {key: value for _, key, value in values})
    else:
        for variable, _, value in values:
            variable.assign(value)
    return report


def find(model, source, format="auto", weights=None):
    """Returns the `Selection` of a model's weights in a file or dictionary."""
    known = ("auto", *formats.format_names(), "keras")
    if format not in known:
        raise ValueError(f"The `format` must be one of {known}. Received: format={format!r}")
    contents = source if isinstance(source, dict) else read_checkpoint(source)
    is_keras = isinstance(contents, keras_files.KerasWeights)
    if format not in ("auto", "keras") and is_keras:
        raise ValueError(f"Expected format='keras' for a Keras file. Received: format={format!r}")
    names = [formats.ALIASES.get(format, format)]
    if format == "auto":
        names = ["keras"] if is_keras else [*formats.FORMATS]
    return select({name: entries_of(model, name) for name in names}, contents, weights)


def to_torch_state_dict(model, format="official"):
    """Returns a model's weights as PyTorch's state dict.

    Args:
        model: A model of `create_model`, or a built attention layer.
        format: `"official"` (Christian-lyc/NAM), `"torchvision"`, its names for ResNets, or
            `"weiaicunzai"` (pytorch-cifar100). A MobileNetV2 has weiaicunzai's names in each.

    Returns:
        Dictionary of arrays, float32 in PyTorch's layouts, the `num_batches_tracked` int64 zeros.
        `load_state_dict` takes `{k: torch.from_numpy(v) for k, v in arrays.items()}`.

    Raises:
        ValueError: If the model is not built, or the format is not known or has no name for one of
            its layers.
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
        ValueError: If the model is not built, or Paddle has no name for one of its layers.
    """
    return _state_dict_of(model, "paddle")


def entries_of(model, format):
    """Returns the list of a model's `Entry`s in a format: variables, keys and layouts."""
    return list(keras_files.entries(model) if format == "keras" else formats.entries(model, format))


def _compare(entries, selection):
    ours = {entry.key: entry.shape for entry in entries}
    theirs = {key: tuple(array.shape) for key, array in selection.arrays.items()}
    common = [key for key in ours if key in theirs]
    return LoadReport(
        format=selection.format,
        loaded=[key for key in common if ours[key] == theirs[key]],
        missing=[key for key in ours if key not in theirs],
        unexpected=[key for key in theirs if key not in ours],
        mismatched=[(key, ours[key], theirs[key]) for key in common if ours[key] != theirs[key]],
        weights=selection.name,
        others=selection.others,
        ignored=selection.ignored,
    )


def _check_built(model):
    if not model.built:
        raise ValueError(f"{model.name!r} has no weights yet. Call build() on it first.")


def _state_dict_of(model, format):
    _check_built(model)
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
    if hasattr(value, "detach"):  # a tensor of PyTorch
        kind = str(value.layout).removeprefix("torch.")
        kind = "meta" if value.is_meta else "quantized" if value.is_quantized else kind
        if kind != "strided":
            raise ValueError(f"{key} is a {kind} tensor. Expected a dense one, with its numbers.")
        value = value.detach().cpu()
        # NumPy has no bfloat16; float() is exact.
        value = value.float() if value.dtype.is_floating_point else value
    value = np.asarray(value)
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise ValueError(f"{key} is not of a floating-point type. Received: dtype={value.dtype}")
    with np.errstate(over="ignore"):  # reported below, as not finite
        return value.astype(np.float32)


def _as_integers(key, value):
    value = np.asarray(value)
    if value.dtype.kind not in "iub":
        raise ValueError(f"{key} is not of an integer type. Received: dtype={value.dtype}")
    return value


def _warn_of_non_finite(values):
    paths = [
        getattr(variable, "path", key)  # Dense saves a tensor for its kernel and LoRA
        for variable, key, value in values
        if not np.isfinite(value).all()
    ]
    if paths:
        warnings.warn(
            f"The checkpoint holds NaN or infinite numbers: {_first(paths, 'weights')}",
            stacklevel=3,
        )


def _first(items, what, count=3):
    listed = ", ".join(str(item) for item in items[:count])
    more = ", ..." if len(items) > count else ""
    return f"{len(items)} {what}" + (f" ({listed}{more})" if items else "")
