"""From a run's SavedModel to a verified ONNX file."""

import numpy as np

from export import onnx_graph, preprocessing, providers, quantize, release, trained_weights
from export.local_models import OnnxModel
from export.source import open_source

# precision -> function (float32 model, calibration images) -> model
CONVERTED = {
    "float32": lambda model, images: model,
    "float16": quantize.to_float16,
    "int8": quantize.to_int8,
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
    float32 = onnx_graph.convert(source, args.opset)
    missing = trained_weights.missing(source, onnx_graph.constants(float32))
    model = CONVERTED[args.precision](float32, calibration)
    operators = onnx_graph.operators(model)

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
            "operators": operators,
            "transposes": operators.get("Transpose", 0),
        },
    )
