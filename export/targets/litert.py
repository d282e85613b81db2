"""LiteRT (formerly TensorFlow Lite) files, made by TensorFlow's own converter."""

import re
from collections import Counter

import numpy as np
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from export.runtime.local_models import LiteRTModel
from export.runtime.native_log import one_line, silenced
from export.targets.exporter import Converted, Target
from training.cli import InputError
from training.runs import files
from training.runs.saved_model import labels


def convert(classify, precision, images=None):
    """Converts a classifier; inputs and outputs stay float32, and N stays dynamic.

    Args:
        classify: A SavedModel's `classifier`.
        precision: A key of `PRECISIONS`.
        images: [N, H, W, 3] in 0–255, training images; only `int8` reads them.

    Returns:
        The file's bytes: the signature `serving_default`, `image` to `logits` and
        `probabilities`, with LiteRT's built-in operators only.

    Raises:
        InputError: If LiteRT does not have one of its operations.
    """
    with silenced():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [classify.get_concrete_function()], classify.loaded
        )
        PRECISIONS[precision](converter, images)
        try:
            return converter.convert()
        except Exception as error:  # the converter's exceptions have no public base class
            # A message has locations and notes beside the errors.
            reason = re.findall("error: (.+)", str(error)) or [str(error)]
            raise InputError(
                f"the SavedModel cannot be converted to LiteRT: {one_line(reason[0])}"
            ) from None


def _float32(converter, images):
    """Leaves the weights unchanged."""


def _float16(converter, images):
    """Rounds the weights; the interpreter computes in float32."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def _int8(converter, images):
    """Quantizes weights, by output channel, and activations, by their ranges on the images."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([np.float32(image[None])] for image in images)


PRECISIONS = {"float32": _float32, "float16": _float16, "int8": _int8}


def operators(content):
    """Returns the operators in a file's bytes: name -> count, sorted by name."""
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


def _convert(source, args, calibration):
    content = convert(source.classify, args.precision, calibration)
    names = source.class_names
    return Converted(
        content,
        {"operators": operators(content)},
        constants(content) if args.precision == "float32" else None,
        {files.LABELS: labels(names).decode() if names else None},
    )


def _open_file(path, args, images):
    candidate = LiteRTModel(path)
    return candidate, {"provider": {"asked": "cpu", "got": candidate.provider}}


TARGET = Target("litert", "tflite", _convert, _open_file, whole=False)
