"""What may go wrong in an ONNX graph, as functions that make it go wrong, one fault each.

Each takes an `onnx.ModelProto`, which it changes, and a `numpy.random.Generator` that chooses
where.
"""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.signatures import IMAGE


def flip_bit(model, rng):
    """One bit of one weight: sign, exponent or mantissa, down to the last."""
    tensor, array = _draw_tensor(model, rng, rank=None)
    bits = array.reshape(-1).view(np.uint32)
    bits[rng.integers(len(bits))] ^= np.uint32(1 << rng.integers(32))
    _assign(tensor, array)


def dead_channel(model, rng):
    """One channel of a convolution gives 0."""
    tensor, kernel = _draw_tensor(model, rng)
    kernel[rng.integers(len(kernel))] = 0
    _assign(tensor, kernel)


def negated_channel(model, rng):
    """One channel of a convolution has the other sign."""
    tensor, kernel = _draw_tensor(model, rng)
    kernel[rng.integers(len(kernel))] *= -1
    _assign(tensor, kernel)


def rounded_kernel(model, rng):
    """A convolution went through float16."""
    tensor, kernel = _draw_tensor(model, rng)
    _assign(tensor, kernel.astype(np.float16).astype(np.float32))


def transposed_kernel(model, rng):
    """A convolution's height and width are swapped."""
    tensor, kernel = _draw_tensor(model, rng, size=3)
    _assign(tensor, np.ascontiguousarray(kernel.swapaxes(2, 3)))


def nan_weight(model, rng):
    """One weight is not a number."""
    tensor, kernel = _draw_tensor(model, rng)
    kernel.reshape(-1)[rng.integers(kernel.size)] = np.nan
    _assign(tensor, kernel)


def reversed_channels(model, rng):
    """The image is taken for BGR."""
    indices = numpy_helper.from_array(np.array([2, 1, 0]), "reversed")
    model.graph.initializer.append(indices)
    for node in model.graph.node:
        node.input[:] = ["bgr" if name == IMAGE.name else name for name in node.input]
    gather = helper.make_node("Gather", [IMAGE.name, "reversed"], ["bgr"], axis=3)
    model.graph.node.insert(0, gather)


def transposed_image(model, rng):
    """The image's height and width are swapped on the way to channels-first."""
    node = _draw_node(model, rng, "Transpose")
    _set(node, "perm", [0, 3, 2, 1])


def reshaped_image(model, rng):
    """NHWC is taken for NCHW: the pixels are only renumbered."""
    node = _draw_node(model, rng, "Transpose")
    shape = numpy_helper.from_array(np.array([-1, 3, 32, 32]), "nchw")
    model.graph.initializer.append(shape)
    _replace(model, node, helper.make_node("Reshape", [node.input[0], "nchw"], node.output))


def softmax_twice(model, rng):
    """The probabilities are the softmax of the probabilities."""
    _pass_through(
        model, "probabilities", helper.make_node("Softmax", ["old"], ["probabilities"], axis=-1)
    )


def outputs_swapped(model, rng):
    """Logits and probabilities have each other's names."""
    other = {"logits": "probabilities", "probabilities": "logits"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [other.get(name, name) for name in names]


def shifted_labels(model, rng):
    """The class names are off by one."""
    for entry in model.metadata_props:
        if entry.key == "class_names":
            names = json.loads(entry.value)
            entry.value = json.dumps(names[1:] + names[:1])


def shifted_classes(model, rng):
    """The logits are off by one class."""
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    order = numpy_helper.from_array(np.roll(np.arange(classes), 1), "order")
    model.graph.initializer.append(order)
    _pass_through(model, "logits", helper.make_node("Gather", ["old", "order"], ["logits"], axis=1))


def fixed_batch(model, rng):
    """The batch became a constant."""
    size = int(rng.choice([1, 3, 64]))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = size


def mixed_batch(model, rng):
    """An image's logits depend on the others of its batch."""
    model.graph.initializer.append(helper.make_tensor("part", TensorProto.FLOAT, [], [1e-3]))
    _pass_through(
        model,
        "logits",
        helper.make_node("ReduceMax", ["old"], ["of_batch"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["of_batch", "part"], ["part_of_batch"]),
        helper.make_node("Add", ["old", "part_of_batch"], ["logits"]),
    )


def missing_relu(model, rng):
    """One ReLU is left out."""
    node = _draw_node(model, rng, "Relu")
    _replace(model, node, helper.make_node("Identity", node.input, node.output))


def missing_shortcut(model, rng):
    """One residual sum keeps only one of its sides."""
    constants = {tensor.name for tensor in model.graph.initializer}
    node = _draw_node(model, rng, "Add", lambda node: not constants & set(node.input))
    _replace(model, node, helper.make_node("Identity", node.input[:1], node.output))


def missing_offset(model, rng):
    """One sum with a trained offset leaves it out: a gate's, or that of the logits."""
    constants = {tensor.name for tensor in model.graph.initializer}
    node = _draw_node(model, rng, "Add", lambda node: constants & set(node.input))
    kept = [name for name in node.input if name not in constants]
    _replace(model, node, helper.make_node("Identity", kept, node.output))


def constant_gate(model, rng):
    """One gate is 0.5, which NAM's is to three digits."""
    node = _draw_node(model, rng, "Sigmoid")
    half = helper.make_node("HardSigmoid", node.input, node.output, alpha=0.0, beta=0.5)
    _replace(model, node, half)


def overflow(model, rng):
    """Activations are beyond float16's 65504 for a moment, which float32 does not mind."""
    (name,) = _draw_node(model, rng, "Relu").output
    for factor, power in (("up", 24), ("down", -24)):
        tensor = helper.make_tensor(factor, TensorProto.FLOAT, [], [2.0**power])
        model.graph.initializer.append(tensor)
    _pass_through(
        model,
        name,
        helper.make_node("Mul", ["old", "up"], ["large"]),
        helper.make_node("Mul", ["large", "down"], [name]),
    )


def _draw_tensor(model, rng, rank=4, size=None):
    """Returns a weight and a copy of its numbers; one of `rank` axes and kernel `size` if given."""
    tensors = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and (rank is None or len(tensor.dims) == rank)
        and (size is None or tensor.dims[-1] == size)
    ]
    tensor = tensors[rng.integers(len(tensors))]
    return tensor, numpy_helper.to_array(tensor).copy()


def _assign(tensor, array):
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _draw_node(model, rng, kind, fits=lambda node: True):
    nodes = [node for node in model.graph.node if node.op_type == kind and fits(node)]
    return nodes[rng.integers(len(nodes))]


def _replace(model, node, other):
    index = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    model.graph.node.insert(index, other)


def _set(node, attribute, value):
    kept = [each for each in node.attribute if each.name != attribute]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(attribute, value)])


def _pass_through(model, name, *nodes):
    """Puts nodes behind the one that gives `name`: they take its output as `old`."""
    producer = next(node for node in model.graph.node if name in node.output)
    producer.output[:] = ["old" if output == name else output for output in producer.output]
    index = list(model.graph.node).index(producer) + 1
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)


FAULTS = {
    "a bit flipped in a weight": flip_bit,
    "a dead channel": dead_channel,
    "a channel with the other sign": negated_channel,
    "a kernel rounded to float16": rounded_kernel,
    "a kernel's height and width swapped": transposed_kernel,
    "a weight that is NaN": nan_weight,
    "RGB taken for BGR": reversed_channels,
    "the image's height and width swapped": transposed_image,
    "NHWC taken for NCHW": reshaped_image,
    "softmax twice": softmax_twice,
    "logits and probabilities swapped": outputs_swapped,
    "class names shifted by one": shifted_labels,
    "logits shifted by one": shifted_classes,
    "a constant batch": fixed_batch,
    "images of a batch mixed": mixed_batch,
    "a ReLU left out": missing_relu,
    "a shortcut left out": missing_shortcut,
    "an offset left out": missing_offset,
    "a gate that is 0.5": constant_gate,
}
