"""What a benchmark compares: a run's Keras model and what was exported from it, made alike.

All take the same images in the memory of the host and give `Scores` there, with the same number of
threads on the same device; and they are the same model, which is shown before a time is taken.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnxruntime
import tensorflow as tf

from export import release
from export.local_models import LiteRTModel, OnnxModel, SavedModel
from export.signatures import scores
from export.source import in_batches
from training.cli import InputError

# Kind of file -> its suffix, and the command that makes it.
FILES = {"onnx": ("onnx", "to_onnx.py"), "litert": ("tflite", "to_litert.py")}
CHECKED = 128  # images, whole batches
# By how much of their norm the logits may differ: int8 was seen to change them by 0.05, another
# training of a network on the easiest data set by 0.7.
LARGEST_ERROR = 0.25


class Contender(NamedTuple):
    """A model that is measured.

    Attributes:
        name: One of `benchmark.MODELS`.
        path: Of its file or folder.
        predict: Function, float32 [N, 32, 32, 3] in 0–255 to `Scores`.
    """

    name: str
    path: object
    predict: Callable


def open_contenders(source, names, provider, threads):
    """Opens the models of a run that are named.

    Args:
        source: A `Source` with a run.
        names: Of `benchmark.MODELS`.
        provider: ONNX Runtime's, a key of `providers.PROVIDERS`.
        threads: Integer.

    Returns:
        A list of `Contender`, and a dictionary of those whose files are not there: name -> the
        command that makes it.
    """
    found, missing = [], {}
    for name in names:
        kind, _, precision = name.partition("-")
        path, command = _where(source, kind, precision)
        if path.exists():
            predict = OPEN[kind](source, path, provider, threads)
            found.append(Contender(name, path, predict))
        else:
            missing[name] = command
    return found, missing


def check_alike(contenders, images):
    """Shows that the contenders are one model: the first one's answers are those of all.

    Args:
        contenders: List of `Contender`.
        images: uint8 array [N, 32, 32, 3].

    Raises:
        InputError: If the logits of one are others.
    """
    truth, *others = contenders
    true = _logits(truth, images)
    for contender in others:
        logits = _logits(contender, images)
        if logits.shape != true.shape:
            raise InputError(
                f"{contender.path} has {logits.shape[1]} classes where {truth.path} has "
                f"{true.shape[1]}: another model, which is not compared. Export it anew."
            )
        error = np.linalg.norm(logits - true) / np.linalg.norm(true)
        if not error <= LARGEST_ERROR:
            raise InputError(
                f"{contender.path} answers otherwise than {truth.path} (its logits by {error:.0%}, "
                f"up to {LARGEST_ERROR:.0%} is let through): another model, which is not compared. "
                "Export it anew."
            )


def _logits(contender, images):
    return in_batches(lambda batch: contender.predict(batch).logits, images[:CHECKED])


def _where(source, kind, precision):
    """Returns a model's path, and the command that makes a file that is not there."""
    folder = source.run.folder
    if kind not in FILES:
        return {"keras": folder / "best.keras", "savedmodel": source.saved_model}[kind], None
    suffix, script = FILES[kind]
    path = folder / kind / release.file_name(precision or "float32", suffix)
    asked = f" --precision {precision}" if precision else ""
    return path, f"python export/{script} --run {folder}{asked}"


def _keras(source, path, provider, threads):
    """Returns the Keras model with the softmax that the others have."""

    @tf.function(input_signature=source.true_logits.input_signature)
    def classify(image):
        logits = source.true_logits(image)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def predict(images):
        return scores(classify(tf.constant(images)), len(images), "the Keras model")

    return predict


def _saved_model(source, path, provider, threads):
    return SavedModel(path).predict


def _onnx(source, path, provider, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on to wait busily after its call, in the time of the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return OnnxModel(path, provider, options).predict


def _litert(source, path, provider, threads):
    """Returns the function of an interpreter for each size of a batch: resizing would be timed."""
    models = {}

    def predict(images):
        if len(images) not in models:
            models[len(images)] = LiteRTModel(path, threads)
        return models[len(images)].predict(images)

    return predict


# Kind of model -> function that opens one and returns its `predict`.
OPEN = {"keras": _keras, "savedmodel": _saved_model, "onnx": _onnx, "litert": _litert}
