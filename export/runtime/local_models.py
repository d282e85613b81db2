"""Models on the disk, with the interface of the clients in `serving`: SavedModel, ONNX and so on.

Each imports its runtime when it is made: one may be installed without the other.
"""

import contextlib
import json
import os
from pathlib import Path

import numpy as np

from export.runtime.native_log import silenced
from export.runtime.preprocessing import Preprocessing
from export.runtime.rest import one_line
from export.runtime.signatures import (
    IMAGE,
    IMAGE_BYTES,
    Scores,
    Signature,
    are_probabilities,
    input_of,
    scores,
)
from training.cli import InputError
from training.runs import files

LABELS = "labels.txt"


def open_model(path):
    """Returns the model in a run folder, a SavedModel (or its base path), or a file.

    A file whose name ends in `.tflite` is LiteRT's, in `.keras` Keras', and any other is ONNX'.

    Raises:
        InputError: If there is nothing, or no such model, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} does not exist: give a run folder, a SavedModel, an ONNX, a LiteRT file or a "
            ".keras file"
        )
    if path.is_dir():
        return SavedModel(version_folder(path))
    return {".tflite": LiteRTModel, ".keras": KerasModel}.get(path.suffix, OnnxModel)(path)


class KerasModel:
    """A `.keras` file, run by Keras on TensorFlow in this process.

    `preprocessing` is how the model takes pictures, and `labels` its class names, if it stands in a
    run's folder. Otherwise the file says neither, and both are `None`.
    """

    def __init__(self, path):
        from training.runs.report import load_model

        self.source = str(path)
        self._model = load_model(path)
        self.preprocessing = self.labels = None
        run = path.parent
        if (run / "config.json").exists():
            recipe = files.read_json(run / "config.json")["recipe_settings"]
            self.preprocessing = Preprocessing("0..1", tuple(recipe["mean"]), tuple(recipe["std"]))
            with contextlib.suppress(InputError):
                self.labels = read_labels(version_folder(run) / "assets" / LABELS)

    def signatures(self):
        """Returns the one signature that a Keras model has, under the name `serving_default`."""
        shapes = self._model.input_shape, self._model.output_shape
        if not all(isinstance(shape, tuple) for shape in shapes):
            raise InputError(f"{self.source} has several inputs or outputs: it is no classifier")
        return {
            IMAGE.signature: Signature(
                {IMAGE.name: shapes[0]}, dict.fromkeys(Scores._fields, shapes[1])
            )
        }

    def predict(self, pictures):
        """Returns the `Scores` of pictures as the model takes them, float32 [N, 32, 32, 3]."""
        rows = np.asarray(self._model(pictures, training=False), np.float64)
        if not are_probabilities(rows):
            exponentials = np.exp(rows - rows.max(-1, keepdims=True))
            outputs = rows, exponentials / exponentials.sum(-1, keepdims=True)
        else:
            with np.errstate(divide="ignore"):
                outputs = np.log(rows), rows
        return scores(dict(zip(Scores._fields, outputs, strict=True)), len(rows), self.source)


class SavedModel:
    """A SavedModel, run by TensorFlow in this process.

    `labels` is the list of class names in `assets/labels.txt`, `None` without that file.
    """

    def __init__(self, folder):
        import tensorflow as tf

        self._tf = tf
        self.source = str(folder)
        try:
            self._signatures = tf.saved_model.load(self.source).signatures
        except Exception as error:  # a damaged file raises whatever its reader runs into
            raise InputError(f"{folder} is a damaged SavedModel: {one_line(str(error))}") from None
        labels = Path(folder) / "assets" / LABELS
        self.labels = read_labels(labels) if labels.exists() else None

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""
        return {
            name: Signature(
                _tensor_shapes(function.structured_input_signature[1]),
                _tensor_shapes(function.structured_outputs),
            )
            for name, function in self._signatures.items()
        }

    def predict(self, pictures):
        """Returns the `Scores` of pictures, as `RestClient.predict`."""
        wanted = input_of(pictures)
        dtype = self._tf.string if wanted is IMAGE_BYTES else self._tf.float32
        tensors = {wanted.name: self._tf.constant(pictures, dtype)}
        try:
            outputs = self._signatures[wanted.signature](**tensors)
        except (self._tf.errors.OpError, TypeError, ValueError) as error:  # the last: its dtype
            raise InputError(f"{self.source}: {one_line(str(error))}") from None
        return scores(outputs, len(pictures), self.source)


class OnnxModel:
    """An ONNX file, run by ONNX Runtime on the execution provider that is named.

    `labels` is the list of class names in its metadata (`class_names`), `None` without it;
    `provider` is ONNX Runtime's name of the one that runs. `options` are its `SessionOptions`, or
    `None`.
    """

    def __init__(self, path, provider="cpu", options=None):
        from export.runtime.providers import open_session

        self.source = str(path)
        self._session = open_session(path, provider, options)
        self.provider = self._session.get_providers()[0]
        self.labels = self._class_names()

    def _class_names(self):
        text = self._session.get_modelmeta().custom_metadata_map.get("class_names", "null")
        try:
            names = json.loads(text)
        except ValueError:
            names = text
        if names is not None and not isinstance(names, list):
            raise InputError(f"{self.source}: its class_names are no JSON list: {text[:40]!r}")
        return names

    def signatures(self):
        """Returns the one signature that an ONNX file has, under the name `serving_default`."""
        sides = self._session.get_inputs(), self._session.get_outputs()
        return {
            IMAGE.signature: Signature(
                *({tensor.name: _lengths(tensor.shape) for tensor in side} for side in sides)
            )
        }

    def predict(self, pictures):
        """Returns the `Scores` of pictures, an array of shape [N, 32, 32, 3], 0–255."""
        names = list(Scores._fields)
        try:
            outputs = self._session.run(names, {IMAGE.name: np.asarray(pictures, np.float32)})
        except Exception as error:
            raise InputError(f"{self.source}: {one_line(str(error))}") from None
        return scores(dict(zip(names, outputs, strict=True)), len(pictures), self.source)


class LiteRTModel:
    """A LiteRT file, run by LiteRT's interpreter on the CPU, in `threads` threads (default: all).

    `labels` is the list of class names in `labels.txt` beside the file, `None` without that file.
    """

    provider = "CPU"

    def __init__(self, path, threads=None):
        from ai_edge_litert.interpreter import Interpreter

        path = Path(path)
        self.source = str(path)
        try:
            # In memory: a file that shrinks while it is mapped kills the process. One byte for an
            # empty file: no bytes are no argument.
            content = path.read_bytes() or bytes(1)
            with silenced():
                self._interpreter = Interpreter(
                    model_content=content, num_threads=threads or os.cpu_count()
                )
                self._interpreter.allocate_tensors()
            self._signatures = self._declared()
        except Exception as error:  # a damaged file raises whatever its reader runs into
            raise InputError(f"{path} is no valid LiteRT model: {one_line(str(error))}") from None
        labels = path.with_name(LABELS)
        self.labels = read_labels(labels) if labels.exists() else None

    def _declared(self):
        names = self._interpreter.get_signature_list()
        runners = {name: self._interpreter.get_signature_runner(name) for name in names}
        return {
            name: Signature(
                _known_lengths(runner.get_input_details()),
                _known_lengths(runner.get_output_details()),
            )
            for name, runner in runners.items()
        }

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""
        return self._signatures

    def predict(self, pictures):
        """Returns the `Scores` of pictures, an array of shape [N, 32, 32, 3], 0–255."""
        try:
            pictures = np.asarray(pictures, np.float32)
            # LiteRT would take any size, and spread one channel over three.
            if pictures.shape[1:] != IMAGE.shape[1:] or not len(pictures):
                raise ValueError(
                    "expected images of shape [N, 32, 32, 3], N from 1; received: "
                    f"{list(pictures.shape)}"
                )
            # It allocates anew only if N is another than before.
            run = self._interpreter.get_signature_runner(IMAGE.signature)
            outputs = run(**{IMAGE.name: pictures})
        except Exception as error:
            raise InputError(f"{self.source}: {one_line(str(error))}") from None
        return scores(outputs, len(pictures), self.source)


def read_labels(path):
    """Returns the class names in a text file, one a line.

    Raises:
        InputError: If the file cannot be read, or holds no names.
    """
    try:
        labels = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the class names in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text with a class name a line") from None
    if not any(labels):
        raise InputError(f"{path} holds no class names, one a line")
    return labels


def version_folder(path):
    """Returns the SavedModel in `path`: itself, or the newest version in it or in a run."""
    if (path / "saved_model.pb").exists():
        return path
    base = path / "saved_model" if (path / "saved_model").is_dir() else path
    versions = [pb.parent for pb in base.glob("*/saved_model.pb") if pb.parent.name.isdecimal()]
    if not versions:
        raise InputError(
            f"{path} holds no SavedModel: neither saved_model.pb, nor <version>/saved_model.pb, nor"
            " saved_model/<version>/saved_model.pb"
        )
    return max(versions, key=lambda version: int(version.name))


def _tensor_shapes(specs):
    return {
        name: None if spec.shape.rank is None else _lengths(spec.shape.as_list())
        for name, spec in specs.items()
    }


def _known_lengths(details):
    """Returns name -> shape from LiteRT's details of tensors, whose unknown lengths are -1."""
    return {
        name: tuple(None if n < 0 else int(n) for n in tensor["shape_signature"])
        for name, tensor in details.items()
    }


def _lengths(shape):
    """The axes without a fixed length have a name (ONNX) or `None`."""
    return tuple(length if isinstance(length, int) else None for length in shape)
