"""Faults of an export, one function each: in its ONNX graph, or before the conversion.

A graph fault changes an `onnx.ModelProto`. A model fault takes the run's `Source` and returns what
a wrong SavedModel is written from: (Keras model, mean, std). Both take a `numpy.random.Generator`
that chooses the place.
"""

import functools
import json

import keras
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.runtime.signatures import IMAGE

GRAPH_FAULTS, MODEL_FAULTS = {}, {}


def graph_fault(kind):
    return functools.partial(GRAPH_FAULTS.setdefault, kind)


def model_fault(kind):
    return functools.partial(MODEL_FAULTS.setdefault, kind)


@graph_fault("a bit flipped in a weight")
def flip_bit(model, rng):
    """Any bit: sign, exponent or mantissa."""
    tensor, array = _draw_tensor(model, rng, rank=None)
    bits = array.reshape(-1).view(np.uint32)
    bits[rng.integers(len(bits))] ^= np.uint32(1 << rng.integers(32))
    _assign(tensor, array)


@graph_fault("a dead channel")
def dead_channel(model, rng):
    tensor, kernel = _draw_tensor(model, rng)
    kernel[rng.integers(len(kernel))] = 0
    _assign(tensor, kernel)


@graph_fault("a channel with the other sign")
def negated_channel(model, rng):
    tensor, kernel = _draw_tensor(model, rng)
    kernel[rng.integers(len(kernel))] *= -1
    _assign(tensor, kernel)


@graph_fault("a kernel rounded to float16")
def rounded_kernel(model, rng):
    tensor, kernel = _draw_tensor(model, rng)
    _assign(tensor, kernel.astype(np.float16).astype(np.float32))


@graph_fault("a kernel's height and width swapped")
def transposed_kernel(model, rng):
    tensor, kernel = _draw_tensor(model, rng, size=3)
    _assign(tensor, np.ascontiguousarray(kernel.swapaxes(2, 3)))


@graph_fault("a weight that is NaN")
def nan_weight(model, rng):
    tensor, kernel = _draw_tensor(model, rng)
    kernel.reshape(-1)[rng.integers(kernel.size)] = np.nan
    _assign(tensor, kernel)


@graph_fault("RGB taken for BGR")
def reversed_channels(model, rng):
    indices = numpy_helper.from_array(np.array([2, 1, 0]), "reversed")
    model.graph.initializer.append(indices)
    for node in model.graph.node:
        node.input[:] = ["bgr" if name == IMAGE.name else name for name in node.input]
    gather = helper.make_node("Gather", [IMAGE.name, "reversed"], ["bgr"], axis=3)
    model.graph.node.insert(0, gather)


@graph_fault("the image's height and width swapped")
def transposed_image(model, rng):
    """In the transpose to channels-first."""
    node = _draw_node(model, rng, "Transpose")
    transpose = helper.make_node("Transpose", node.input, node.output, perm=[0, 3, 2, 1])
    _replace(model, node, transpose)


@graph_fault("NHWC taken for NCHW")
def reshaped_image(model, rng):
    node = _draw_node(model, rng, "Transpose")
    _, height, width, channels = (
        dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim
    )
    shape = numpy_helper.from_array(np.array([-1, channels, height, width]), "nchw")
    model.graph.initializer.append(shape)
    _replace(model, node, helper.make_node("Reshape", [node.input[0], "nchw"], node.output))


@graph_fault("softmax twice")
def softmax_twice(model, rng):
    softmax = helper.make_node("Softmax", ["old"], ["probabilities"], axis=-1)
    _insert_after(model, "probabilities", softmax)


@graph_fault("logits and probabilities swapped")
def outputs_swapped(model, rng):
    other = {"logits": "probabilities", "probabilities": "logits"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [other.get(name, name) for name in names]


@graph_fault("class names shifted by one")
def shifted_labels(model, rng):
    for entry in model.metadata_props:
        if entry.key == "class_names":
            names = json.loads(entry.value)
            entry.value = json.dumps(names[1:] + names[:1])


@graph_fault("logits shifted by one")
def shifted_classes(model, rng):
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    order = numpy_helper.from_array(np.roll(np.arange(classes), 1), "order")
    model.graph.initializer.append(order)
    gather = helper.make_node("Gather", ["old", "order"], ["logits"], axis=1)
    _insert_after(model, "logits", gather)


@graph_fault("a constant batch")
def fixed_batch(model, rng):
    size = int(rng.choice([1, 3, 64]))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = size


@graph_fault("images of a batch mixed")
def mixed_batch(model, rng):
    """An image's logits depend on the other images of its batch."""
    model.graph.initializer.append(helper.make_tensor("part", TensorProto.FLOAT, [], [1e-3]))
    _insert_after(
        model,
        "logits",
        helper.make_node("ReduceMax", ["old"], ["of_batch"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["of_batch", "part"], ["part_of_batch"]),
        helper.make_node("Add", ["old", "part_of_batch"], ["logits"]),
    )


@graph_fault("a ReLU left out")
def missing_relu(model, rng):
    node = _draw_node(model, rng, "Relu")
    _replace(model, node, helper.make_node("Identity", node.input, node.output))


@graph_fault("a shortcut left out")
def missing_shortcut(model, rng):
    constants = {tensor.name for tensor in model.graph.initializer}
    node = _draw_node(model, rng, "Add", lambda node: not constants & set(node.input))
    _replace(model, node, helper.make_node("Identity", node.input[:1], node.output))


@graph_fault("an offset left out")
def missing_offset(model, rng):
    """A gate's, or the one of the logits."""
    constants = {tensor.name for tensor in model.graph.initializer}
    node = _draw_node(model, rng, "Add", lambda node: constants & set(node.input))
    kept = [name for name in node.input if name not in constants]
    _replace(model, node, helper.make_node("Identity", kept, node.output))


@graph_fault("a gate that is 0.5")
def constant_gate(model, rng):
    """NAM's gates differ from it in the third digit."""
    node = _draw_node(model, rng, "Sigmoid")
    half = helper.make_node("HardSigmoid", node.input, node.output, alpha=0.0, beta=0.5)
    _replace(model, node, half)


def overflow(model, rng):
    """Makes some activations exceed 65504, the limit of float16; float32 has the same answers."""
    (name,) = _draw_node(model, rng, "Relu").output
    for factor, power in (("up", 24), ("down", -24)):
        tensor = helper.make_tensor(factor, TensorProto.FLOAT, [], [2.0**power])
        model.graph.initializer.append(tensor)
    _insert_after(
        model,
        name,
        helper.make_node("Mul", ["old", "up"], ["large"]),
        helper.make_node("Mul", ["large", "down"], [name]),
    )


def _draw_tensor(model, rng, rank=4, size=None):
    """Returns a weight of `rank` axes and kernel `size`, if given, and a copy of its numbers."""
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


def _insert_after(model, name, *nodes):
    """Inserts nodes after the one with the output `name`, which they get as `old`."""
    producer = next(node for node in model.graph.node if name in node.output)
    producer.output[:] = ["old" if output == name else output for output in producer.output]
    index = list(model.graph.node).index(producer) + 1
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)


@model_fault("mean and std swapped")
def swapped_mean_and_std(source, rng):
    return source.model, source.normalize.std, source.normalize.mean


@model_fault("mean and std of BGR")
def reversed_mean(source, rng):
    return source.model, source.normalize.mean[::-1], source.normalize.std[::-1]


@model_fault("another data set's std")
def other_std(source, rng):
    """The other one in use for CIFAR-100."""
    return source.model, source.normalize.mean, (0.2023, 0.1994, 0.2010)


@model_fault("a layer's γ with the other sign")
def negated_gamma(source, rng):
    model, layer = _draw_normalization(source, rng)
    layer.gamma.assign(-np.asarray(layer.gamma))
    return model, source.normalize.mean, source.normalize.std


@model_fault("a layer's epsilon 1e-3")
def other_epsilon(source, rng):
    """Or 1e-5, PyTorch's, if it is 1e-3 already."""
    model, layer = _draw_normalization(source, rng)
    layer.epsilon = 1e-5 if layer.epsilon == 1e-3 else 1e-3
    return model, source.normalize.mean, source.normalize.std


@model_fault("a layer's variance unbiased")
def unbiased_statistics(source, rng):
    """n / (n - 1) of what it was, for a batch of 256 and 8x8 pixels."""
    model, layer = _draw_normalization(source, rng)
    count = 256 * 64
    layer.moving_variance.assign(np.asarray(layer.moving_variance) * count / (count - 1))
    return model, source.normalize.mean, source.normalize.std


@model_fault("a layer's statistics not loaded")
def initial_statistics(source, rng):
    model, layer = _draw_normalization(source, rng)
    layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
    layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    return model, source.normalize.mean, source.normalize.std


@model_fault("a stale SavedModel")
def stale(source, rng):
    """Every weight differs by 1e-4 of it, as one step before the last."""
    return _perturbed(source, rng, 1e-4)


@model_fault("weights of another epoch")
def other_epoch(source, rng):
    """Every weight differs by a tenth of it."""
    return _perturbed(source, rng, 0.1)


def _draw_normalization(source, rng):
    """Returns a copy of the run's model, and one of its normalizations."""
    model = _copy(source.model)
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return model, layers[rng.integers(len(layers))]


def _perturbed(source, rng, share):
    model = _copy(source.model)
    weights = model.get_weights()
    model.set_weights([w * (1 + share * rng.standard_normal(w.shape)) for w in weights])
    return model, source.normalize.mean, source.normalize.std


def _copy(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
