"""An ONNX graph whose gates can be read and set: for a page that shows what they do.

A gate is a sigmoid whose values multiply something else than its own argument (that is a swish).
"""

import copy
import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from export.runtime import providers
from export.runtime.signatures import IMAGE, Scores
from export.verification.limits import LIMITS
from training.cli import FailedError, InputError

TOLERANCE = 1e-5  # of the logits
FACTOR, OFFSET, METADATA = "factor", "offset", "gates"
# What may stand between a sigmoid and its product: layout, type, BAM's 1 + gate.
BETWEEN = {"Add", "Cast", "DequantizeLinear", "QuantizeLinear", "Reshape", "Squeeze", "Transpose"}
BETWEEN |= {"Unsqueeze"}
STORED = {"Cast", "DequantizeLinear", "QuantizeLinear"}  # the same values in another type
CHANNELS_LAST = (0, 2, 3, 1)
LETTERS = "HWDT"  # of the axes other than the channels


class Gate(NamedTuple):
    """A gate of a network, as the metadata of the graph describe it.

    Attributes:
        name: The layer's path in the network, which is also the name of the graph's output.
        shape: Of the values of one image, without the batch.
        layout: A letter an axis of `shape`: `C`, `H`, `W`.
        units: `"channels"` or `"positions"`: what has a factor and an offset each.
        gamma: List of the units' |γ|, or `None` if they are not known.
        added: Whether the network multiplies by 1 + the gate, as BAM does.
    """

    name: str
    shape: list
    layout: str
    units: str
    gamma: list | None = None
    added: bool = False

    @property
    def unit_shape(self):
        """The shape of its factors and of its offsets, [1, ...]."""
        kept = "C" if self.units == "channels" else "HW"
        sizes = zip(self.layout, self.shape, strict=True)
        return [1, *(size if axis in kept else 1 for axis, size in sizes)]


def with_gates(model, gammas=None):
    """Returns a graph that also gives the values of its gates, and takes changes of them.

    A gate `x * g` becomes `x * (g * factor + offset)`. The graph has an output for `g`, named after
    the gate, and the inputs `<name>/factor` and `<name>/offset`.

    Args:
        model: `onnx.ModelProto` of a classifier. It is not changed.
        gammas: Dictionary, a gate's layer -> |γ| of its units; the layer is a part of its path.

    Returns:
        `onnx.ModelProto`; `gates` reads from its metadata what gates it has.

    Raises:
        InputError: If the shape of a gate is not fixed.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    described = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {tensor.name: tensor.type.tensor_type for tensor in described}
    changed, found = copy.deepcopy(model), []
    nodes = _Nodes(changed.graph)
    for sigmoid in nodes.of_kind("Sigmoid"):
        multiplied, added = nodes.multiplied(sigmoid)
        if multiplied is not None:
            values = nodes.stored(sigmoid)
            shapes = (_shape(types[tensor]) for tensor in (values, multiplied))
            gate = _describe(sigmoid.name, *shapes, nodes.channels_last(multiplied), gammas or {})
            again = sum(other.name.partition("#")[0] == gate.name for other in found)
            name = f"{gate.name}#{again + 1}" if again else gate.name
            gate = gate._replace(name=name, added=added)
            found.append(gate)
            nodes.insert(values, gate, types[values].elem_type)
    entry = changed.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps([gate._asdict() for gate in found])
    onnx.checker.check_model(changed, full_check=True)
    return changed


def gates(model):
    """Returns the list of the `Gate`s of a graph that `with_gates` made."""
    (text,) = [entry.value for entry in model.metadata_props if entry.key == METADATA]
    return [Gate(**values) for values in json.loads(text)]


def neutral(model):
    """Returns the inputs that leave each gate as it is: name -> array."""
    feeds = {}
    for gate in gates(model):
        feeds[f"{gate.name}/{FACTOR}"] = np.ones(gate.unit_shape, np.float32)
        feeds[f"{gate.name}/{OFFSET}"] = np.zeros(gate.unit_shape, np.float32)
    return feeds


def precision(model):
    """Returns the precision of a graph: a key of `limits.LIMITS`."""
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "float16" if half else "float32"


def check(model, path, images):
    """Compares a graph, where no gate is changed, with the file that it was made from.

    Args:
        model: `onnx.ModelProto`, what `with_gates` made.
        path: The ONNX file.
        images: Array [N, H, W, 3] of 0–255.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        FailedError: If it is beyond the tolerance.
    """
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / "gates.onnx"
        changed.write_bytes(model.SerializeToString())
        original, gated = (_session(file, precision(model)) for file in (path, changed))
    feeds = {IMAGE.name: images.astype(np.float32)}
    before = original.run(Scores._fields[:1], feeds)[0]
    after = gated.run(Scores._fields[:1], feeds | neutral(model))[0]
    difference, tolerance = float(np.abs(after - before).max()), TOLERANCE
    if precision(model) == "float16":
        # Computed in float32, and rounded where the graph changes the type: not at the same places.
        tolerance = LIMITS["float16"].of_logits(float(np.abs(before).max()))
    if not difference <= tolerance:
        raise FailedError(
            f"{path}: with gates that can be set, and are not, the logits differ by "
            f"{difference:.2g}; expected at most {tolerance:.2g}. No page was made."
        )
    return difference


def _session(path, precision):
    """Opens a file; one of int8 as it is, since fused operators round at other places."""
    options = onnxruntime.SessionOptions()
    if precision == "int8":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return providers.open_session(path, "cpu", options)


def _shape(kind):
    return [dim.dim_value for dim in kind.shape.dim][1:]


def _describe(node, shape, multiplied, channels_last, gammas):
    """Returns the `Gate` of a sigmoid, from its shape and the shape of what it multiplies."""
    *path, _ = node.split("/")
    # TensorFlow numbers the layers of a copied model.
    path = [part if part in gammas else re.sub(r"_\d+$", "", part) for part in path]
    name = "/".join(path[1:] or path or [node])
    if not shape or not all(shape):
        raise InputError(f"the gate {name} has no fixed shape: export the model with a fixed size")
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if shape == multiplied:
        channels = len(shape) - 1 if channels_last else 0
    elif len(wide) == 2:  # a map
        (channels,) = {*range(len(shape))} - {*wide} or {0}
    else:
        channels = wide[0] if wide else 0
    others = iter(LETTERS)
    layout = "".join("C" if axis == channels else next(others) for axis in range(len(shape)))
    units = "positions" if "spatial" in name or shape[channels] == 1 else "channels"
    gate = Gate(name, shape, layout, units)
    for gamma in (gammas[part] for part in path if part in gammas):
        if len(gamma) == np.prod(gate.unit_shape):
            gate = gate._replace(gamma=[float(value) for value in gamma])
    return gate


class _Nodes:
    """The nodes of a graph by the tensors that they make and take."""

    def __init__(self, graph):
        self.graph = graph
        self.makers = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name for tensor in graph.initializer}
        self.constants |= {name for name in self.makers if self.makers[name].op_type == "Constant"}

    def of_kind(self, kind):
        return [node for node in self.graph.node if node.op_type == kind]

    def takers(self, tensor):
        return [node for node in self.graph.node if tensor in node.input]

    def multiplied(self, sigmoid):
        """Returns the tensor that a gate multiplies, and whether by 1 + the gate.

        The tensor is `None` if the sigmoid is no gate.
        """
        pending = [(tensor, False) for tensor in sigmoid.output]
        while pending:
            tensor, added = pending.pop()
            for node in self.takers(tensor):
                if node.op_type == "Mul":
                    (other,) = {*node.input} - {tensor} or {tensor}
                    if other in self.constants:  # such as a gain
                        pending.append((node.output[0], added))
                        continue
                    swish = self.origin(other) in (self.origin(sigmoid.input[0]), tensor)
                    return (None if swish else other), added
                if node.op_type in BETWEEN:
                    pending += [(each, added or node.op_type == "Add") for each in node.output]
        return None, False

    def origin(self, tensor):
        """Returns the tensor that a tensor is in another type."""
        while (maker := self.makers.get(tensor)) is not None and maker.op_type in STORED:
            tensor = maker.input[0]
        return tensor

    def stored(self, sigmoid):
        """Returns the tensor of a sigmoid's values that is computed with: int8's few levels."""
        tensor = sigmoid.output[0]
        while len(takers := self.takers(tensor)) == 1 and takers[0].op_type in STORED:
            tensor = takers[0].output[0]
        return tensor

    def channels_last(self, tensor):
        """Whether images have their channels last, judged from the nodes before."""
        while tensor in self.makers:
            node = self.makers[tensor]
            if node.op_type == "Transpose":
                return tuple(node.attribute[0].ints) == CHANNELS_LAST
            if node.op_type == "Conv":
                return False
            tensor = next((name for name in node.input if name in self.makers), None)
        return False

    def insert(self, tensor, gate, kind):
        """Puts `g * factor + offset` behind a tensor `g` of the type `kind`."""
        takers, name = self.takers(tensor), gate.name
        parts = ("typed_factor", "typed_offset", "scaled", "changed")
        factor, offset, scaled, changed = (f"{name}/{part}" for part in parts)
        added = [
            helper.make_node("Cast", [tensor], [name], f"{name}/shown", to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"{name}/{FACTOR}"], [factor], factor, to=kind),
            helper.make_node("Cast", [f"{name}/{OFFSET}"], [offset], offset, to=kind),
            helper.make_node("Mul", [tensor, factor], [scaled], scaled),
            helper.make_node("Add", [scaled, offset], [changed], changed),
        ]
        for taker in takers:
            taker.input[:] = [changed if each == tensor else each for each in taker.input]
        at = list(self.graph.node).index(takers[0])
        for node in reversed(added):
            self.graph.node.insert(at, node)
        for part in (FACTOR, OFFSET):
            self.graph.input.append(
                helper.make_tensor_value_info(f"{name}/{part}", TensorProto.FLOAT, gate.unit_shape)
            )
        shape = [None, *gate.shape]
        self.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
