"""Keras models of any make: opened in float32, and described by what they take and return."""

import importlib.util
import inspect
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

import keras_nam
from export.runtime.native_log import one_line
from export.runtime.single_output import SeveralLabelsError, kind_of, last_activation
from export.verification.classifier import of_logits, of_probabilities
from keras_nam.attention.normalization_gate import NormalizationGate
from training.cli import InputError
from training.runs import report

PROBE = 8  # images that tell probabilities from logits
TRUTH = "the Keras model in float32"
MIXED = ("mixed_float16", "mixed_bfloat16")


class Tensor(NamedTuple):
    """An input or output of a model: its name, shape (`None`: any length) and dtype."""

    name: str
    shape: tuple
    dtype: str


def load(path, custom=None):
    """Returns the model of a `.keras` file, in float32.

    Args:
        path: Path of the file.
        custom: Path of a Python module with the model's own classes, or `None`.

    Raises:
        InputError: If it is not such a file, needs classes that are not found, has no weights, or
            computes in another dtype than float32 and is not of mixed precision.
    """
    report.check_backend()
    path = Path(path)
    if path.suffix in (".h5", ".hdf5"):
        raise InputError(
            f"{path} is in the older HDF5 format. Convert it: python -c 'import keras; "
            f'keras.saving.load_model("{path}").save("{path.with_suffix(".keras")}")\''
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a .keras file, as model.save writes it")
    return _load(path, _classes(custom) if custom else {})


def in_float32(model):
    """Returns a model, or its copy in float32 if it is of mixed precision.

    Raises:
        InputError: As `load`.
    """
    report.check_backend()
    parts = model._flatten_layers() if isinstance(model, keras.Layer) else []
    if not any(part.dtype_policy.name in MIXED for part in parts):
        return _checked(model, repr(getattr(model, "name", model)))
    return _checked(rebuilt(model, MIXED, "float32"), repr(model.name))


def rebuilt(model, old, new):
    """Returns a copy of a model with the dtype policies `old`, a list, replaced by `new`.

    Models of any make, nested and subclassed ones too, are written to a file and read again.
    """
    kinds = {type(layer) for layer in model._flatten_layers()}
    # Keras finds its own: the layer Add would hide the operation Add of `x + 3.0`.
    classes = {kind.__name__: kind for kind in kinds if not kind.__module__.startswith("keras.")}
    with tempfile.TemporaryDirectory() as folder, keras.saving.custom_object_scope(classes):
        path, copy = (Path(folder) / name for name in ("model.keras", "copy.keras"))
        model.save(path)
        return keras.saving.load_model(_replaced(path, copy, old, new), compile=False)


def _load(path, classes):
    with tempfile.TemporaryDirectory() as folder, keras.saving.custom_object_scope(classes):
        try:
            source = _replaced(path, Path(folder) / path.name, MIXED, "float32")
            model = keras.saving.load_model(source, compile=False)
        except Exception as error:  # a damaged file raises whatever its reader runs into
            hint = ""
            if "register_keras_serializable" in str(error) or "custom_objects" in str(error):
                hint = ". Name the Python file that defines it with --custom"
            raise InputError(f"{path} cannot be loaded: {one_line(error)[:200]}{hint}") from None
    return _checked(model, path)


def _replaced(path, copy, old, new):
    """Returns the path of a file with other dtype policies: a copy, or the same without any."""
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
        if not any(json.dumps(policy) in config for policy in old):
            return path
        for policy in old:
            config = config.replace(json.dumps(policy), json.dumps(new))
        with zipfile.ZipFile(copy, "w") as changed:
            for name in archive.namelist():
                changed.writestr(name, config if name == "config.json" else archive.read(name))
    return copy


def _classes(path):
    """Returns name -> class or function, of a Python file's own."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or not Path(path).is_file():
        raise InputError(f"--custom {path}: expected a Python file (.py)")
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)  # for pickles and dataclasses in it
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        raise InputError(f"--custom {path} cannot be imported: {one_line(error)}") from None
    own = (
        (name, value)
        for name, value in vars(module).items()
        if inspect.isclass(value) or inspect.isfunction(value)
    )
    return {name: value for name, value in own if value.__module__ == module.__name__}


def _checked(model, name):
    if not isinstance(model, keras.Model):
        raise InputError(f"{name} is a {type(model).__name__}: expected a keras.Model")
    if not (model.built and model.weights):
        raise InputError(
            f"{name} is not built, or has no weights: call it on an input and train it before it "
            "is saved"
        )
    others = {layer.compute_dtype for layer in model._flatten_layers()} - {"float32", None}
    if others:
        raise InputError(
            f"{name} computes in {', '.join(sorted(others))}: expected float32, mixed_float16 or "
            "mixed_bfloat16"
        )
    if isinstance(model, keras.Sequential):  # as a graph, which has named ends
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def inputs(model):
    """Returns the list of a model's input `Tensor`s. Without a graph: what it was built with."""
    if isinstance(model, keras.Function):
        tensors = keras.tree.flatten(model.input)
        names = [tensor._keras_history.operation.name for tensor in tensors]
        return [
            Tensor(name, tuple(tensor.shape), tensor.dtype)
            for name, tensor in zip(names, tensors, strict=True)
        ]
    shapes = (model.get_build_config() or {}).get("input_shape")
    shapes = shapes if isinstance(shapes, dict) else {"inputs": shapes}
    if any(not shape or not all(_is_length(n) for n in shape) for shape in shapes.values()):
        raise InputError(
            f"{model.name!r} does not say what it takes: call it with one tensor, or a dictionary"
        )
    return [Tensor(name, (None, *shape[1:]), "float32") for name, shape in shapes.items()]


def _is_length(value):
    return value is None or isinstance(value, int)


def call(model, arrays, names=None):
    """Returns a model's outputs in inference: output name -> tensor, of input name -> tensor.

    `names` are the outputs' names, in order; `None` for the model's own. A model that returns a
    dictionary has its keys. Outputs of one layer get numbers, because Keras names them alike.
    """
    if isinstance(model, keras.Function):
        given = keras.tree.pack_sequence_as(model.input, [arrays[i.name] for i in inputs(model)])
    else:
        given = arrays["inputs"] if list(arrays) == ["inputs"] else arrays
    found = model(given, training=False)
    if isinstance(found, dict):
        return found
    flat = keras.tree.flatten(found)
    if names is None:
        names = getattr(model, "output_names", None) or [f"output_{i}" for i in range(len(flat))]
    return dict(zip(_numbered(names), flat, strict=True))


def _numbered(names):
    """Returns the names, those that were there before with the first free number behind them."""
    found = []
    for name in names:
        numbers = (f"{name}_{n}" for n in range(1, len(names) + 1))
        others = {*names, *found}
        found.append(name if name not in found else next(n for n in numbers if n not in others))
    return found


def image_shape(model):
    """Returns (height, width, 3), `None` where any is taken, or `None` if it takes no image."""
    taken = inputs(model)
    if len(taken) != 1 or len(taken[0].shape) != 4 or taken[0].shape[3] != 3:
        return None
    return taken[0].shape[1:]


class Head(NamedTuple):
    """A classifier's model, and how its outputs are read.

    Attributes:
        model: The model, without a final softmax or sigmoid where that could be taken off.
        to_scores: Function of its outputs to a dictionary of `logits` and `probabilities`.
        note: Sentence about what was found.
        kind: One of `single_output.SCORES`, what the whole model returns.
    """

    model: keras.Model
    to_scores: Callable
    note: str
    kind: str


def head(model, images, stated=None, keep_activation=False):
    """Returns the `Head` of a model of one input, or `None` if it is not a classifier.

    A single output column is read as the second of two classes.

    Args:
        model: A `keras.Model`.
        images: Float array [N, ...], as the model takes them.
        stated: One of `single_output.SCORES`, or `None` to find it out.
        keep_activation: Whether the last activation is left where it is.

    Raises:
        InputError: If it cannot be found out.
    """
    outputs = list(call(model, {inputs(model)[0].name: images[:PROBE]}).values())
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        return None
    found = np.asarray(outputs[0])
    kind, *last = last_activation(model) or [None]
    try:
        kind = kind_of(found, repr(model.name), stated or kind)
    except SeveralLabelsError:
        return None
    if kind == "logits":
        return Head(model, of_logits, "The model's outputs are read as logits.", kind)
    note = "The model's outputs are read as probabilities"
    bare = _without(model, *last) if last and not keep_activation else None
    if bare is not None:
        again = of_logits(bare(images[:PROBE]))["probabilities"]
        if np.allclose(again[:, -found.shape[1] :], found, atol=1e-5):
            note += ", and the logits are before the last activation."
            return Head(bare, of_logits, note, kind)
    return Head(model, of_probabilities, f"{note}, and the logits are their logarithms.", kind)


def _without(model, layer, tensor):
    """Returns the graph without its last activation; `None` if the last layer is another one."""
    if isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        return keras.Model(model.input, tensor, name=model.name)
    if type(layer) is not keras.layers.Dense:
        return None
    bare = keras.layers.Dense.from_config({**layer.get_config(), "activation": None})
    output = bare(tensor)
    bare.set_weights(layer.get_weights())
    return keras.Model(model.input, output, name=model.name)


def folded(model):
    """Returns a model for inference and a note: `keras_nam.fold`'s, or the same if it refuses."""
    try:
        copy = keras_nam.fold(model)
    except ValueError as error:
        return model, f"Nothing was folded: {one_line(error)}"
    before, after = (_normalizations(each) for each in (model, copy))
    return copy, f"{before - after} of {before} normalizations were folded."


def _normalizations(model):
    """Returns the number of a model's batch normalizations, gates not counted."""
    layers = model._flatten_layers()
    return sum(
        isinstance(layer, keras.layers.BatchNormalization)
        and not isinstance(layer, NormalizationGate)
        for layer in layers
    )
