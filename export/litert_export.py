"""From a run's SavedModel to a verified LiteRT file."""

from export import litert, preprocessing, release, trained_weights
from export.local_models import LABELS, LiteRTModel
from export.source import open_source


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
    content = litert.convert(source.saved_model, args.precision, calibration, source.preprocessing)
    constants = litert.constants(content) if args.precision == "float32" else None
    missing = trained_weights.missing(source, constants, whole=False)
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
        {"operators": litert.operators(content)},
        labels_file,
    )
