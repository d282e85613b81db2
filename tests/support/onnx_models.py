"""ONNX models taken apart, run, and changed, for the tests of `quantize`."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OUTPUTS = ["logits", "probabilities"]


def answers(model, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(OUTPUTS, {"image": images.astype(np.float32)})


def operators_that_run(model, folder):
    """Returns how often each operator stands in the graph as ONNX Runtime's CPU provider has it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model):
    return {output: node for node in model.graph.node for output in node.output}


def of_kind(model, kind):
    return [node for node in model.graph.node if node.op_type == kind]


def types(model):
    """Returns tensor name -> its type."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    named = (*graph.input, *graph.value_info, *graph.output)
    return {tensor.name: tensor.type.tensor_type.elem_type for tensor in named}


def with_weight(model, value):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kernel = next(tensor for tensor in copy.graph.initializer if len(tensor.dims) == 4)
    array = numpy_helper.to_array(kernel).copy()
    array.flat[0] = value
    kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))
    return copy, kernel.name


def with_factor(model, power):
    """A model whose first ReLU gives its values times 2**power, for a moment."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = of_kind(copy, "Relu")[0]
    name, node.output[0] = node.output[0], "old"
    for factor, exponent in (("up", power), ("down", -power)):
        copy.graph.initializer.append(
            helper.make_tensor(factor, TensorProto.FLOAT, [], [2.0**exponent])
        )
    at = list(copy.graph.node).index(node)
    copy.graph.node.insert(at + 1, helper.make_node("Mul", ["old", "up"], ["large"], "times"))
    copy.graph.node.insert(at + 2, helper.make_node("Mul", ["large", "down"], [name], "over"))
    return copy


def dequantized_input(model, node, index):
    """Returns the int8 array, scales and zero points of a node's weight, and its axis."""
    dequantize = producers(model)[node.input[index]]
    assert dequantize.op_type == "DequantizeLinear"
    arrays = constants(model)
    (axis,) = [each.i for each in dequantize.attribute if each.name == "axis"] or [1]
    return *(arrays[name] for name in dequantize.input), axis


def with_statistics(model):
    """A model whose normalizations are not folded: a mean, a variance and an epsilon each."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rng = np.random.default_rng(0)
    arrays = constants(copy)
    for number, node in enumerate(of_kind(copy, "BatchNormalization")):
        channels = len(arrays[node.input[1]])
        for index, draw in ((3, rng.normal(0, 1, channels)), (4, rng.uniform(0.5, 2, channels))):
            node.input[index] = f"{number}/{index}"
            copy.graph.initializer.append(
                numpy_helper.from_array(draw.astype(np.float32), node.input[index])
            )
        del node.attribute[:]
        if number:  # the first has ONNX' default
            node.attribute.append(helper.make_attribute("epsilon", 0.25))
    return copy


def range_of_the_image(model):
    """Returns the smallest and largest value that the first quantization can tell."""
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    arrays = constants(model)
    scale, zero_point = (arrays[name] for name in quantizer.input[1:])
    assert zero_point.dtype == np.uint8
    return (0.0 - zero_point) * scale, (255.0 - zero_point) * scale
