"""The ONNX graph of a classifier: converted by tf2onnx, named, described and checked."""

import json
import logging
from collections import Counter

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import helper, numpy_helper
from tf2onnx.constants import OPSET_TO_IR_VERSION
from tf2onnx.handler import tf_op

from export.runtime import providers
from export.runtime.local_models import OnnxModel
from export.runtime.native_log import one_line
from export.runtime.signatures import IMAGE, feeds
from export.targets import quantization
from export.targets.exporter import Converted, Target
from export.verification.tensors import TensorSource
from training.cli import InputError
from training.runs import files

BATCH = "batch"
WRAPPER = "StatefulPartitionedCall/"
OPSETS = range(13, max(OPSET_TO_IR_VERSION) + 1)


@tf_op("Erfc")
class Erfc:
    """`erfc(x) = 1 - erf(x)`, of which GELU consists; tf2onnx has erf alone."""

    @classmethod
    def version_9(cls, graph, node, **_):
        node.type = "Erf"
        (output,) = node.output
        one = graph.make_const(f"{node.name}/one", np.ones((), np.float32)).output[0]
        graph.insert_new_node_on_output("Sub", output, inputs=[one, output])


def convert(source, opset):
    """Returns the ONNX graph of a `Source`.

    It has the input and outputs of `source.classify`, and axis 0 of each is named `batch`. Its
    metadata describe the input, the classes and the origin.

    Raises:
        InputError: If the opset is not supported, or ONNX does not have one of the operations.
    """
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        model, _ = tf2onnx.convert.from_function(
            source.classify, source.classify.input_signature, opset=opset
        )
    except (ValueError, NotImplementedError, tf.errors.OpError) as error:
        raise _failure(source, error) from None
    _embed(source.classify.get_concrete_function(), model.graph)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH
    model.graph.name = "classifier"
    _shorten_names(model.graph)
    helper.set_model_props(model, metadata(source))
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:  # an operation that tf2onnx left as it is
        raise _failure(source, error) from None
    return model


def _failure(source, error):
    return InputError(f"{source.name} cannot be converted to ONNX: {one_line(error)}")


def _embed(function, graph):
    """Makes constants of a function's tensors outside it, such as an adapted Normalization's.

    tf2onnx does so with variables only, and makes inputs of the others.
    """
    outside = {inner.name: outer for outer, inner in function.graph.captures}
    for tensor in [each for each in graph.input if each.name in outside]:
        graph.initializer.append(numpy_helper.from_array(outside[tensor.name].numpy(), tensor.name))
        graph.input.remove(tensor)


def _shorten_names(graph):
    """Removes the prefix of TensorFlow's wrappers, unless two names would be the same."""
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    short = {name: name.replace(WRAPPER, "") for name in tensors}
    if len(set(short.values())) < len(tensors):
        return
    for tensor in (*graph.initializer, *graph.value_info):
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        node.name = node.name.replace(WRAPPER, "")
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]


def metadata(source):
    """Returns what is written into the file: a dictionary of strings."""
    if isinstance(source, TensorSource):
        return {"exporter_revision": str(files.git_revision())}
    run, stated = source.run, source.stated
    shape = ",".join(str(n or "any") for n in source.classify.input_signature[0].shape[1:])
    values = {
        "class_names": source.class_names,
        "input": f"{IMAGE.name}: float32 RGB [{BATCH},{shape}], 0-255"
        + ("; normalized inside" if stated else "; whether it is normalized inside is not known"),
        "preprocessing": None if run or not stated else str(source.normalize),
        "picture": source.dataset.resize.as_json(),
        "exporter_revision": files.git_revision(),
    }
    if run:
        values |= {
            "arch": run.config["arch"],
            "mean": run.mean,
            "std": run.std,
            "source_revision": run.config.get("environment", {}).get("git_revision"),
            "data": source.data_name,
            "data_licence": DATA_LICENCES.get(source.dataset.name),
        }
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None
    }


CIFAR = (
    "CIFAR ({}): Krizhevsky, 2009, Learning Multiple Layers of Features from Tiny Images. "
    "Its authors name no licence; they ask to be cited."
)
DATA_LICENCES = {
    "cifar100": CIFAR.format("CIFAR-100"),
    "cifar10": CIFAR.format("CIFAR-10"),
    "synthetic": "drawn by this project, under its own licence (Apache-2.0)",
}


def operators(model):
    """Returns the operators of a graph: name -> count, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def constants(model):
    """Returns the float32 constants that a graph computes with: name -> array."""
    used = {name for node in model.graph.node for name in node.input}
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in used
    }
    return {name: array for name, array in arrays.items() if array.dtype == np.float32}


# precision -> function (float32 model, calibration images) -> model
PRECISIONS = {
    "float32": lambda model, images: model,
    "float16": quantization.to_float16,
    "int8": quantization.to_int8,
}


def _convert(source, args, calibration):
    float32 = convert(source, args.opset)
    stored = constants(float32)
    model = PRECISIONS[args.precision](float32, calibration)
    counts = operators(model)
    facts = {
        "opset": args.opset,
        "operators": counts,
        "transposes": counts.get("Transpose", 0),
    }
    return Converted(model.SerializeToString(), facts, stored, {})


def _open_file(path, args, images):
    candidate = OnnxModel(path, args.provider)
    return candidate, {
        "provider": {"asked": args.provider, "got": candidate.provider},
        "nodes": providers.nodes_by_provider(path, args.provider, feeds(images[:1])),
    }


TARGET = Target("onnx", "onnx", _convert, _open_file)
