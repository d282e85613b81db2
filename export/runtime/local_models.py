"""Models on the disk, with the interface of the clients of a server.

Each class imports its runtime when it is used, because not all need to be installed.
"""

import contextlib
import json
import os
from pathlib import Path

import numpy as np

from export.runtime.native_log import one_line, silenced
from export.runtime.preprocessing import Preprocessing
from export.runtime.signatures import (
    IMAGE,
    IMAGE_BYTES,
    Scores,
    Signature,
    fits,
    input_of,
    scores,
    shape_of,
)
from export.runtime.single_output import kind_of, last_activation, scores_of
from training.cli import InputError
from training.data.pictures import Resize
from training.runs import files


def open_model(path):
    """Returns the model in a run folder, a SavedModel (or its base path), or a file.

    A file with the suffix `.tflite` is opened by LiteRT, `.keras` by Keras, any other by ONNX
    Runtime.

    Raises:
        InputError: If the path does not exist, or does not hold such a model, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} does not exist: give a run folder, a SavedModel, an ONNX, a LiteRT file or a "
            ".keras file"
        )
    if path.is_dir():
        return SavedModel(version_folder(path))
    return {".tflite": LiteRTModel, ".keras": KerasModel}.get(path.suffix, _onnx)(path)


def _onnx(path):
    model = OnnxModel(path)
    declared = model.signatures()[IMAGE.signature]
    return SingleOutput(model) if len(declared.outputs) == 1 else model


class LocalModel:
    """A model of some runtime; a subclass has `signatures()` and `_run(pictures)`.

    Attributes:
        source: The path as a string.
        labels: List of the class names, or `None` if the file does not have them.
        rule: `pictures.Resize` of its training, or `None` if it is not known.
    """

    labels = rule = None

    def __init__(self, path):
        self.source = str(path)

    def predict(self, pictures):
        """Returns the `Scores` of pictures, an array of shape [N, H, W, 3], 0–255."""
        try:
            outputs = self._run(pictures)
        except InputError:
            raise
        except Exception as error:  # the runtimes' exceptions have no public base class
            raise InputError(f"{self.source}: {one_line(error)}") from None
        return scores(outputs, len(pictures), self.source)


class KerasModel(LocalModel):
    """A `.keras` file, run by Keras on TensorFlow in this process.

    Attributes:
        preprocessing: How the model takes pictures; `None` for a file that is not in a run's
            folder.
        kind: See `kind_of`: what it returns, by its last activation; `None` to find it out by the
            values.
    """

    def __init__(self, path):
        from training.runs.report import load_model

        super().__init__(path)
        self._model = load_model(path)
        self.preprocessing = None
        self.kind, *_ = last_activation(self._model) or [None]
        run = path.parent
        config = files.read_json(run / "config.json") if (run / "config.json").exists() else None
        if isinstance(config, dict) and "recipe_settings" in config:  # else it is another tool's
            self.kind, recipe = "logits", config["recipe_settings"]
            self.rule = Resize(*self._model.input_shape[1:3], config.get("crop_fraction"))
            self.preprocessing = Preprocessing("0..1", tuple(recipe["mean"]), tuple(recipe["std"]))
            with contextlib.suppress(InputError):
                self.labels = read_labels(version_folder(run) / "assets" / files.LABELS)

    def signatures(self):
        """Returns the one signature of a Keras model, under the name `serving_default`."""
        try:
            shapes = self._model.input_shape, self._model.output_shape
        except AttributeError:  # not a graph: what it was built with
            shape = (self._model.get_build_config() or {}).get("input_shape")
            shapes = shape and (None, *shape[1:]), (None, None)
        if not all(isinstance(shape, tuple) for shape in shapes):
            raise InputError(f"{self.source} has several inputs or outputs: not a classifier")
        return classifier_signature(*shapes)

    def _run(self, pictures):
        # A graph casts its inputs, a subclassed model does not.
        pictures = np.asarray(pictures, np.float32)
        # A graph that was loaded may take a list of one.
        takes_list = isinstance(getattr(self._model, "input", None), list)
        rows = np.asarray(self._model([pictures] if takes_list else pictures, training=False))
        self.kind = kind_of(rows, self.source, self.kind)
        return scores_of(rows, self.kind)


class SavedModel(LocalModel):
    """A SavedModel, run by TensorFlow in this process; labels and rule are files in `assets/`."""

    def __init__(self, folder):
        import tensorflow as tf

        super().__init__(folder)
        self._tf = tf
        try:
            self._signatures = tf.saved_model.load(self.source).signatures
        except Exception as error:  # a damaged file raises whatever its reader runs into
            raise InputError(f"{folder} is a damaged SavedModel: {one_line(error)}") from None
        self.labels, self.rule = (of(Path(folder) / "assets") for of in (labels_in, rule_in))

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""

        def shapes(specs):
            return {
                name: shape_of(None if spec.shape.rank is None else spec.shape.as_list())
                for name, spec in specs.items()
            }

        return {
            name: Signature(
                shapes(function.structured_input_signature[1]),
                shapes(function.structured_outputs),
            )
            for name, function in self._signatures.items()
        }

    def _run(self, pictures):
        wanted = input_of(pictures)
        dtype = self._tf.string if wanted is IMAGE_BYTES else self._tf.float32
        tensors = {wanted.name: self._tf.constant(pictures, dtype)}
        return self._signatures[wanted.signature](**tensors)


class OnnxModel(LocalModel):
    """An ONNX file, run by ONNX Runtime on a named execution provider.

    Labels and rule are in its metadata (`class_names`, `picture`). `provider` is ONNX Runtime's
    name of the one that runs.

    Args:
        path: The file.
        provider: A key of `providers.PROVIDERS`, or `"auto"`.
        options: `onnxruntime.SessionOptions`, or `None`.
    """

    def __init__(self, path, provider="cpu", options=None):
        from export.runtime.providers import open_session

        super().__init__(path)
        self._session = open_session(path, provider, options)
        self.provider = self._session.get_providers()[0]
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "picture" in metadata:
            self.rule = _rule(metadata["picture"], path)
        text = metadata.get("class_names", "null")
        try:
            self.labels = json.loads(text)
        except ValueError:
            self.labels = text
        if self.labels is not None and not isinstance(self.labels, list):
            raise InputError(f"{path}: its class_names are not a JSON list: {text[:40]!r}")

    def signatures(self):
        """Returns the one signature of an ONNX file, under the name `serving_default`."""
        sides = self._session.get_inputs(), self._session.get_outputs()
        shapes = ({tensor.name: shape_of(tensor.shape) for tensor in side} for side in sides)
        return {IMAGE.signature: Signature(*shapes)}

    def run(self, arrays):
        """Returns all outputs: name -> array, of input name -> array."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, arrays), strict=True))

    def _run(self, pictures):
        return self.run({IMAGE.name: np.asarray(pictures, np.float32)})


class SingleOutput(LocalModel):
    """A classifier's ONNX file with one input and one output, whatever their names are.

    Args:
        model: The `OnnxModel`.
        kind: One of `SCORES`, what it is known to return; `None` to find it out by the values.
            The attribute `kind` can be set to what a user states, which the values must fit.
    """

    preprocessing = None  # a file of others does not say how it takes pictures

    def __init__(self, model, kind=None):
        super().__init__(model.source)
        self._model, self.kind, self._is_known = model, kind, kind is not None
        self.labels, self.rule, self.provider = model.labels, model.rule, model.provider
        self._declared = model.signatures()[IMAGE.signature]
        if len(self._declared.inputs) != 1 or len(self._declared.outputs) != 1:
            raise InputError(f"{self.source} has several inputs or outputs: not a classifier")

    def signatures(self):
        """Returns the one signature, under this project's names."""
        return classifier_signature(
            *(next(iter(side.values())) for side in (self._declared.inputs, self._declared.outputs))
        )

    def _run(self, pictures):
        ((name, output),) = zip(self._declared.inputs, self._declared.outputs, strict=True)
        found = self._model.run({name: np.asarray(pictures, np.float32)})
        if not self._is_known:
            self.kind = kind_of(found[output], self.source, self.kind)
        return scores_of(found[output], self.kind)


def classifier_signature(image, output):
    """Returns the signatures of a classifier with one input and one output of these shapes."""
    output = output or (None, None)  # ONNX Runtime says () of a shape that is not declared
    classes = max(output[-1], 2) if output[-1] else None
    outputs = dict.fromkeys(Scores._fields, (output[0], classes))
    return {IMAGE.signature: Signature({IMAGE.name: image}, outputs)}


class LiteRTModel(LocalModel):
    """A LiteRT file, run by LiteRT's interpreter on the CPU, in `threads` threads (default: all).

    The labels are in `labels.txt` beside the file, the rule is in `preprocessing.json`.
    """

    provider = "CPU"

    def __init__(self, path, threads=None):
        from ai_edge_litert.interpreter import Interpreter

        path = Path(path)
        super().__init__(path)
        try:
            # In memory: a file that shrinks while it is mapped kills the process. The interpreter
            # rejects empty content.
            content = path.read_bytes() or bytes(1)
            with silenced():
                self._interpreter = Interpreter(
                    model_content=content, num_threads=threads or os.cpu_count()
                )
                self._interpreter.allocate_tensors()
            self._signatures = {
                name: self._signature(self._interpreter.get_signature_runner(name))
                for name in self._interpreter.get_signature_list()
            }
        except Exception as error:  # a damaged file raises whatever its reader runs into
            raise InputError(f"{path} is not a valid LiteRT model: {one_line(error)}") from None
        self.labels, self.rule = labels_in(path.parent), rule_in(path.parent)

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""
        return self._signatures

    @staticmethod
    def _signature(runner):
        sides = runner.get_input_details(), runner.get_output_details()
        shapes = (
            {name: shape_of(tensor["shape_signature"].tolist()) for name, tensor in side.items()}
            for side in sides
        )
        return Signature(*shapes)

    def _run(self, pictures):
        pictures = np.asarray(pictures, np.float32)
        height, width, channels = self._signatures[IMAGE.signature].inputs[IMAGE.name][1:]
        # LiteRT would take any size, and repeat one channel three times.
        if not fits((None, height, width, channels), pictures.shape) or not len(pictures):
            raise ValueError(
                f"expected images of shape [N, {height or 'any'}, {width or 'any'}, {channels}], "
                f"N from 1; received: {list(pictures.shape)}"
            )
        return self.run({IMAGE.name: pictures})

    def run(self, arrays):
        """Returns all outputs: name -> array, of input name -> array."""
        # It allocates again only if N changes.
        return self._interpreter.get_signature_runner(IMAGE.signature)(**arrays)


def labels_in(folder):
    """Returns the class names in a folder's `labels.txt`, or `None` without that file."""
    path = folder / files.LABELS
    return read_labels(path) if path.exists() else None


def rule_in(folder):
    """Returns the `pictures.Resize` in a folder's `preprocessing.json`, or `None` without it."""
    path = folder / files.PREPROCESSING
    return read_rule(path) if path.exists() else None


def read_rule(path):
    """Returns the `pictures.Resize` in a `preprocessing.json`.

    Raises:
        InputError: If the file cannot be read, or does not hold one.
    """
    try:
        return _rule(Path(path).read_bytes(), path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _rule(text, path):
    try:
        return Resize.from_json(json.loads(text))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} does not say how pictures are resized: expected height, width and "
            "crop_fraction"
        ) from None


def read_labels(path):
    """Returns the class names in a text file, one a line.

    Raises:
        InputError: If the file cannot be read, or does not hold names.
    """
    try:
        labels = Path(path).read_text(encoding="utf-8-sig").splitlines()  # of Notepad, too
    except OSError as error:
        raise InputError(f"cannot read the class names in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text with a class name a line") from None
    if not any(labels):
        raise InputError(f"{path} does not hold class names, one a line")
    return labels


def version_folder(path):
    """Returns the SavedModel in `path`: itself, or the newest version in it or in a run."""
    if (path / "saved_model.pb").exists():
        return path
    base = path / "saved_model" if (path / "saved_model").is_dir() else path
    versions = [pb.parent for pb in base.glob("*/saved_model.pb") if pb.parent.name.isdecimal()]
    if not versions:
        raise InputError(
            f"{path} does not hold a SavedModel: neither saved_model.pb, nor "
            "<version>/saved_model.pb, nor saved_model/<version>/saved_model.pb. For a finished "
            "run, python export/to_savedmodel.py --run RUN writes it."
        )
    return max(versions, key=lambda version: int(version.name))
