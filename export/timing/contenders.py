"""The contenders of an inference benchmark: a run's Keras model and the models exported from it.

All of them map the same images in host memory to `Scores` in host memory, with the same number of
threads on the same device. `check_alike` compares their logits before anything is timed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnxruntime
import tensorflow as tf

from export.runtime.local_models import LiteRTModel, OnnxModel, SavedModel
from export.runtime.native_log import one_line
from export.runtime.signatures import IMAGE, Scores, scores
from export.targets.exporter import file_name
from export.verification.source import in_batches
from training.cli import InputError

CHECKED = 128  # images
# Relative to the norm of the logits. int8 changes them by 0.05; another training of the same
# network on the easiest data set by 0.7.
LARGEST_ERROR = 0.25


class Contender(NamedTuple):
    """A model to time.

    Attributes:
        name: One of `benchmark.MODELS`.
        path: Path of its file or folder.
        predict: Callable, float32 [N, H, W, 3] in 0–255 to `Scores`.
    """

    name: str
    path: object
    predict: Callable


def open_contenders(source, names, provider, threads):
    """Opens the models of a run, by their names in `benchmark.MODELS`.

    Returns:
        List of `Contender`, and a dictionary of the names that were left out to the reason: the
        file or the runtime is missing.
    """
    found, left_out = [], {}
    for name in names:
        kind, _, precision = name.partition("-")
        path, command = _where(source, kind, precision)
        if not path.exists():
            left_out[name] = f"{path.name} is missing, run {command}"
            continue
        try:
            found.append(Contender(name, path, OPEN[kind](source, path, provider, threads)))
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed"
    return found, left_out


def check_alike(contenders, images):
    """Raises an InputError if the logits differ from the first contender's: different models."""
    reference, *others = contenders
    expected = _logits(reference, images)
    for contender in others:
        logits = _logits(contender, images)
        error = np.inf
        if logits.shape == expected.shape:
            error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
        if not error <= LARGEST_ERROR:
            raise InputError(
                f"The logits of {contender.path} {logits.shape} and {reference.path} "
                f"{expected.shape} differ by {error:.0%}, expected up to {LARGEST_ERROR:.0%}: they "
                "are different models. Export it again."
            )


def _logits(contender, images):
    return in_batches(lambda batch: contender.predict(batch).logits, images[:CHECKED])


def _where(source, kind, precision):
    """Returns the path of a model, and the command that writes its file."""
    folder = source.run.folder
    if kind in ("keras", "savedmodel"):
        return {"keras": folder / "best.keras", "savedmodel": source.saved_model}[kind], None
    target, suffix = ("litert", "tflite") if kind == "litert" else ("onnx", "onnx")
    option = f" --precision {precision}" if precision else ""
    command = f"python export/to_{target}.py --run {folder}{option}"
    return folder / target / file_name(precision or "float32", suffix), command


def _keras(source, path, provider, threads):
    """Adds the softmax that the exported models have."""

    @tf.function(input_signature=source.classify.input_signature)
    def classify(image):
        logits = source.true_logits(image)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    return lambda images: scores(classify(tf.constant(images)), len(images), "the Keras model")


def _saved_model(source, path, provider, threads):
    return SavedModel(path).predict


def _onnx(source, path, provider, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would keep spinning after a call, while the next contender is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return OnnxModel(path, provider, options).predict


def _openvino(source, path, provider, threads):
    import openvino  # optional

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # The default on a CPU with AMX is bfloat16: the logits would differ by 1%.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise InputError(f"{path} is not a valid ONNX model: {one_line(error)}") from None

    def predict(images):
        outputs = request.infer({IMAGE.name: images}, share_inputs=True)
        return scores({name: outputs[name] for name in Scores._fields}, len(images), str(path))

    return predict


def _litert(source, path, provider, threads):
    """Opens an interpreter for each batch size, so that no resizing is timed."""
    models = {}

    def predict(images):
        if len(images) not in models:
            models[len(images)] = LiteRTModel(path, threads)
        return models[len(images)].predict(images)

    return predict


# Kind of model -> function that opens one and returns its `predict`.
OPEN = {
    "keras": _keras,
    "savedmodel": _saved_model,
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
}
