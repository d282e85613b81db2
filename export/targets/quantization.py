"""Converts a float32 ONNX model to float16 or int8.

The image's normalization and the last step of the logits stay float32 in both: they cost nothing,
and inputs and outputs are float32.
"""

import contextlib
import copy
import itertools
import logging
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from export.runtime.signatures import feeds, fits
from training.cli import FailedError, InputError

BATCH_SIZE = 8  # a batch's activations are in memory at once: 1.6 GB for r50_nam
FLOAT16_MAX = float(np.finfo(np.float16).max)
# What normalizes pixels before the first operation with weights.
ON_PIXELS = {"Add", "BatchNormalization", "Cast", "Concat", "Div", "Mul", "Pad", "Reshape", "Slice"}
ON_PIXELS |= {"Split", "Sub", "Transpose"}
# What a NAM gate computes its sigmoid's argument with.
ARGUMENT_OPERATORS = ("BatchNormalization", "Mul", "Add")
INT8 = {
    "quant_format": quantization.QuantFormat.QDQ,
    "per_channel": True,
    # x86 without VNNI (before 2019) saturates sums of two products of 8 bits.
    "reduce_range": True,
    # Unsigned activations: ONNX Runtime has no fast signed ones on x86.
    "activation_type": quantization.QuantType.QUInt8,
    "weight_type": quantization.QuantType.QInt8,
    "calibrate_method": quantization.CalibrationMethod.MinMax,
    "extra_options": {
        "OpTypesToExcludeOutputQuantization": ["MatMul"],  # its sums are the logits
        # Runtimes quantize it themselves, to the int32 that they compute in.
        "QuantizeBias": False,
    },
}


def to_float16(model, images):
    """Returns a model with float16 weights and activations, except in the gates.

    The converter silently clips a weight beyond float16's range. An activation beyond it becomes
    infinite only on a GPU, because ONNX Runtime's CPU provider computes float16 models in float32.
    Both are errors here.

    A NAM gate stays float32, as in training: in float16 the last gate of a trained network with
    128 channels would have 8 different values.

    Args:
        model: `onnx.ModelProto`, float32. It is not changed.
        images: [N, H, W, 3], 0–255, an array or `store.Images`, or `Samples`, that the
            activations' range is measured on.

    Returns:
        `onnx.ModelProto` with the interface, opset, metadata and node names of `model`.

    Raises:
        FailedError: If a weight or an activation is beyond ±65504.
        InputError: If there are no images, or they have another shape.
    """
    _check(model, images)
    _refuse_overflow(_largest_weights(model))
    _refuse_overflow(_largest_activations(model, images))
    in_float32 = [*_ends(model), *_gates(model)]
    half = OnnxModel(
        convert_float_to_float16(model, keep_io_types=True, node_block_list=in_float32)
    )
    half.disable_shape_inference()
    half.remove_cascaded_cast_nodes()
    half.remove_useless_cast_nodes()
    half.topological_sort()
    return _with_graph_of(half.model, model, onnx.TensorProto.FLOAT16)


def to_int8(model, images):
    """Returns a model with int8 weights, one scale a channel, and 8-bit activations.

    The activations' ranges are the smallest and largest values on the images. A batch
    normalization becomes a depthwise convolution, because only that runs in int8.

    Weights have 7 bits, so that every processor sums the products exactly.

    Args:
        model: `onnx.ModelProto`, float32. It is not changed.
        images: [N, H, W, 3], 0–255, an array or `store.Images`: training images that the ranges
            are measured on.

    Returns:
        `onnx.ModelProto` in QDQ format, with the interface, opset, metadata and node names of
        `model`. A ReLU that the quantization does itself has no node.

    Raises:
        InputError: If there are no images, or they have another shape.
    """
    _check(model, images)
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        target = Path(folder) / "int8.onnx"
        source, ends = _with_convolutions(model), _ends(model)
        quantization.quantize_static(source, target, _Images(images), nodes_to_exclude=ends, **INT8)
        quantized = onnx.load(target)
    return _with_short_names(_with_graph_of(quantized, model, onnx.TensorProto.INT8), model)


def _check(model, images):
    for tensor in model.graph.input:
        lengths = (dim.dim_value for dim in tensor.type.tensor_type.shape.dim[1:])
        expected = tuple(length or None for length in lengths)
        received = np.shape(feeds(images[:1])[tensor.name])[1:]
        if len(images) == 0 or not fits(expected, received):
            raise InputError(
                f"the ranges need one image or more of shape {expected}; received "
                f"{(len(images), *received)}"
            )


class _Images(quantization.CalibrationDataReader):
    """Feeds images in batches."""

    def __init__(self, images):
        starts = range(0, len(images), BATCH_SIZE)
        self.batches = (images[start : start + BATCH_SIZE] for start in starts)

    def get_next(self):
        batch = next(self.batches, None)
        return None if batch is None else feeds(batch)


@contextlib.contextmanager
def _without_warnings():
    """Silences the quantizer's warnings, which it gives by the root logger; errors stay."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _refuse_overflow(largest):
    """Raises a FailedError if one of the values, name -> value, is beyond float16's range."""
    for name, value in largest.items():
        if value > FLOAT16_MAX:
            raise FailedError(
                f"{name} is as large as {value:.4g}, and float16 ends at {FLOAT16_MAX:.0f}: "
                "export with --precision float32 or int8"
            )


def _largest_weights(model):
    """Returns name -> largest absolute value, of the float32 weights."""
    return {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def _largest_activations(model, images):
    """Returns name -> largest absolute value on the images, of the float32 activations."""
    with tempfile.TemporaryDirectory() as folder:
        source, augmented = (Path(folder) / name for name in ("model.onnx", "augmented.onnx"))
        onnx.save(onnx.shape_inference.infer_shapes(model), source)
        calibrator = create_calibrator(source, augmented_model_path=str(augmented))
        calibrator.collect_data(_Images(images))
        ranges = calibrator.compute_data()
    return {name: float(np.abs(found.range_value).max()) for name, found in ranges.items()}


def _ends(model):
    """Returns the names of the image's normalization, the last sum and the softmax."""
    outputs = {tensor.name for tensor in model.graph.output}
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    pixels, found = {tensor.name for tensor in model.graph.input}, []
    for node in model.graph.node:
        computed = {*node.input} - constants
        if node.op_type in ON_PIXELS and computed and computed <= pixels:
            pixels |= {*node.output}
            found.append(node.name)
        elif outputs & {*node.output}:
            found.append(node.name)
    return found


def _gates(model):
    """Returns the names of the sigmoids, of what computes their argument, and of their products."""
    producers = {output: node for node in model.graph.node for output in node.output}

    def inputs(node, operators):
        given = (producers[name] for name in node.input if name in producers)
        return [each for each in given if each.op_type in operators]

    found = {n.name for n in model.graph.node if n.op_type == "Mul" and inputs(n, ["Sigmoid"])}
    pending = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    while pending:
        node = pending.pop()
        if node.name not in found:
            found.add(node.name)
            pending += inputs(node, ARGUMENT_OPERATORS)
    return sorted(found)


def _with_convolutions(model):
    """Returns a copy whose batch normalizations are depthwise convolutions of the same name."""
    changed = copy.deepcopy(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        if node.op_type == "BatchNormalization":
            gamma, beta, mean, variance = (
                arrays[name].astype("float64") for name in node.input[1:5]
            )
            (epsilon,) = [each.f for each in node.attribute if each.name == "epsilon"] or [1e-5]
            scale = gamma / np.sqrt(variance + epsilon)
            weights = {"kernel": scale.reshape(-1, 1, 1, 1), "bias": beta - mean * scale}
            inputs = [node.input[0], *(f"{node.name}/{name}" for name in weights)]
            for name, array in zip(inputs[1:], weights.values(), strict=True):
                arrays[name] = array.astype(np.float32)
            node.CopyFrom(
                helper.make_node("Conv", inputs, node.output[:1], node.name, group=len(scale))
            )
    used = {name for node in changed.graph.node for name in node.input}
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used
    )
    return changed


def _with_graph_of(converted, model, dtype):
    """Returns `model` with the nodes and weights of `converted`, of which some have the dtype."""
    if not any(tensor.data_type == dtype for tensor in converted.graph.initializer):
        name = onnx.TensorProto.DataType.Name(dtype).lower()
        raise FailedError(f"no weight of the model can be {name}: export it in float32")
    changed = copy.deepcopy(model)
    for field in ("node", "initializer", "value_info"):
        changed.graph.ClearField(field)
    changed.graph.node.extend(converted.graph.node)
    changed.graph.initializer.extend(converted.graph.initializer)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _with_short_names(quantized, model):
    """Returns `quantized` with numbers for the names that `model` does not have.

    The quantizer derives several long names from each: a third of a small model's file.
    """
    known = {""}.union(*((node.name, *node.input, *node.output) for node in model.graph.node))
    numbers = (name for name in map("q{}".format, itertools.count()) if name not in known)
    names = defaultdict(lambda: next(numbers), {name: name for name in known})
    for node in quantized.graph.node:
        node.name = names[node.name]
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for tensor in quantized.graph.initializer:
        tensor.name = names[tensor.name]
    return quantized
