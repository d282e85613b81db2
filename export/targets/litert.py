"""LiteRT (once TensorFlow Lite) files: made by TensorFlow's own converter, and what is in them."""

import re
from collections import Counter

import numpy as np
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from export.runtime import preprocessing
from export.runtime.local_models import LABELS, LiteRTModel
from export.runtime.native_log import silenced
from export.runtime.preprocessing import UNCHANGED
from export.runtime.rest import one_line
from export.verification import release, trained_weights
from export.verification.classifier import classifier
from export.verification.source import open_source
from training.cli import InputError


def convert(saved_model, precision, images=None, preprocessing=UNCHANGED):
    """Converts the classifier in a SavedModel; inputs and outputs stay float32, N dynamic.

    Args:
        saved_model: Path of the version's folder.
        precision: A key of `PRECISIONS`.
        images: float32 array [N, 32, 32, 3] in 0–255, training images; `int8` alone needs them.
        preprocessing: `Preprocessing` that is put before it.

    Returns:
        The file's bytes: the signature `serving_default`, `image` to `logits` and
        `probabilities`, of LiteRT's built-in operators only.

    Raises:
        InputError: If it is no such SavedModel, or has an operation that LiteRT has not.
    """
    classify = classifier(saved_model, preprocessing)
    with silenced():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [classify.get_concrete_function()], classify.loaded
        )
        PRECISIONS[precision](converter, images)
        try:
            return converter.convert()
        except Exception as error:  # the converter's exceptions have no public base class
            raise InputError(f"{saved_model} has no LiteRT form: {_reason(str(error))}") from None


def _reason(message):
    """Returns the first error in a message of the converter, which has locations and notes too."""
    errors = re.findall("error: (.+)", message)
    return one_line(errors[0] if errors else message)


def _float32(converter, images):
    """Keeps the weights as they are."""


def _float16(converter, images):
    """Rounds the weights; what computes in float32 gets them back as float32."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def _int8(converter, images):
    """Quantizes weights, by output channel, and activations, by their ranges on the images."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([image[None]] for image in images)


PRECISIONS = {"float32": _float32, "float16": _float16, "int8": _int8}


def operators(content):
    """Returns the operators of a file's bytes: name -> how often it stands there, by name."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    names = (
        flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        for graph in model.subgraphs
        for operator in graph.operators
    )
    return dict(sorted(Counter(names).items()))


def constants(content):
    """Returns the constants in a file's bytes, all read as float32: name -> array."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    buffers = {
        tensor.name.decode(): model.buffers[tensor.buffer].data
        for graph in model.subgraphs
        for tensor in graph.tensors
    }
    return {
        name: np.asarray(data).view(np.float32)
        for name, data in buffers.items()
        if data is not None and len(data) % 4 == 0
    }


def export(args):
    """Exports and verifies, as the command line of `to_litert` says; returns the report."""
    source = open_source(
        args.run,
        args.saved_model,
        args.data_dir,
        args.dataset,
        preprocessing.from_options(args),
    )
    images, labels = release.sample(source, args.precision, args.samples)
    calibration = release.calibration_images(source, args.calibration_images)
    content = convert(source.saved_model, args.precision, calibration, source.preprocessing)
    stored = constants(content) if args.precision == "float32" else None
    missing = trained_weights.missing(source, stored, whole=False)
    names = source.class_names
    labels_file = {LABELS: "".join(f"{name}\n" for name in names)} if names else {}

    def open_candidate(path):
        candidate = LiteRTModel(path)
        return candidate, {"provider": {"asked": "cpu", "got": candidate.provider}}

    return release.release(
        source,
        content,
        release.output_folder(source, "litert", args.output)
        / release.file_name(args.precision, "tflite"),
        args.precision,
        images,
        labels,
        missing,
        open_candidate,
        {"operators": operators(content)},
        labels_file,
    )
