"""The ONNX graph of a classifier: converted by tf2onnx, named, described and checked."""

import json
import logging
from collections import Counter

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import helper, numpy_helper
from tf2onnx import constants

from export.runtime import preprocessing, providers
from export.runtime.local_models import OnnxModel
from export.runtime.signatures import IMAGE
from export.targets import quantization
from export.verification import release, trained_weights
from export.verification.source import open_source
from training.cli import InputError
from training.runs import files

BATCH = "batch"
WRAPPER = "StatefulPartitionedCall/"
OPSETS = range(13, max(constants.OPSET_TO_IR_VERSION) + 1)


def convert(source, opset):
    """Returns the ONNX graph of a `Source`.

    Its input is `image`, its outputs those of `source.classify`, axis 0 of each is named `batch`;
    its metadata say what it takes and where it is from.

    Raises:
        InputError: If the opset is not supported, or an operation has none in ONNX.
    """
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        model, _ = tf2onnx.convert.from_function(
            source.classify, source.classify.input_signature, opset=opset
        )
    except (ValueError, NotImplementedError, tf.errors.OpError) as error:
        raise InputError(f"{source.saved_model} has no ONNX form: {error}") from None
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH
    model.graph.name = "classifier"
    _shorten_names(model.graph)
    helper.set_model_props(model, metadata(source))
    onnx.checker.check_model(model, full_check=True)
    return model


def _shorten_names(graph):
    """Takes the names of TensorFlow's wrappers from before those of the network's layers."""
    tensors = {name for node in graph.node for name in (*node.input, *node.output)}
    short = {name: name.replace(WRAPPER, "") for name in tensors}
    if len(set(short.values())) < len(tensors):  # not the same as before
        return
    for tensor in (*graph.initializer, *graph.value_info):
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        node.name = node.name.replace(WRAPPER, "")
        node.input[:] = [short[name] for name in node.input]
        node.output[:] = [short[name] for name in node.output]


def metadata(source):
    """Returns what is written into the file: a dictionary of strings."""
    run = source.run
    stated = source.is_stated
    values = {
        "class_names": source.class_names,
        "input": f"{IMAGE.name}: float32 RGB [{BATCH},32,32,3], 0-255"
        + ("; normalized inside" if stated else "; whether it is normalized inside is not known"),
        "preprocessing": None if run or not stated else str(source.preprocessing),
        "arch": run and run.config["arch"],
        "mean": run and run.mean,
        "std": run and run.std,
        "source_revision": run and run.config.get("environment", {}).get("git_revision"),
        "exporter_revision": files.git_revision(),
        "data": run and source.data_name,
        "data_licence": run and DATA_LICENCES[source.dataset.name],
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
    """Returns the operators of a graph: name -> how often it stands there, by name."""
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
CONVERTED = {
    "float32": lambda model, images: model,
    "float16": quantization.to_float16,
    "int8": quantization.to_int8,
}


def export(args):
    """Exports and verifies, as the command line of `to_onnx` says; returns the report."""
    providers.check(args.provider)
    source = open_source(
        args.run,
        args.saved_model,
        args.data_dir,
        args.dataset,
        preprocessing.from_options(args),
    )
    images, labels = release.sample(source, args.precision, args.samples)
    calibration = release.calibration_images(source, args.calibration_images)
    float32 = convert(source, args.opset)
    missing = trained_weights.missing(source, constants(float32))
    model = CONVERTED[args.precision](float32, calibration)
    counts = operators(model)

    def open_candidate(path):
        candidate = OnnxModel(path, args.provider)
        feeds = {"image": images[:1].astype(np.float32)}
        return candidate, {
            "provider": {"asked": args.provider, "got": candidate.provider},
            "nodes": providers.nodes_by_provider(path, args.provider, feeds),
        }

    return release.release(
        source,
        model.SerializeToString(),
        release.output_folder(source, "onnx", args.output)
        / release.file_name(args.precision, "onnx"),
        args.precision,
        images,
        labels,
        missing,
        open_candidate,
        {
            "opset": args.opset,
            "operators": counts,
            "transposes": counts.get("Transpose", 0),
        },
    )
