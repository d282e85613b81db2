"""From a run's SavedModel to a verified LiteRT file."""

from export import litert, release, trained_weights
from export.local_models import LiteRTModel
from export.source import open_source
from training.runs import write_atomically


def export(args):
    """Exports and verifies, as the command line of `to_litert` says; returns the report."""
    source = open_source(args.run, args.saved_model, args.data_dir, args.dataset)
    images, labels = release.sample(source, args.precision, args.samples)
    calibration = release.calibration_images(source, args.calibration_images)
    content = litert.convert(source.saved_model, args.precision, calibration)
    constants = litert.constants(content) if args.precision == "float32" else None
    missing = trained_weights.missing(source, constants, whole=False)
    folder = release.output_folder(source, "litert", args.output)
    folder.mkdir(parents=True, exist_ok=True)
    if source.class_names:
        names = "".join(f"{name}\n" for name in source.class_names)
        write_atomically(
            folder / "labels.txt", lambda path: path.write_text(names, encoding="utf-8")
        )

    def open_candidate(path):
        candidate = LiteRTModel(path)
        return candidate, {"provider": {"asked": "cpu", "got": candidate.provider}}

    return release.release(
        source,
        content,
        folder / release.file_name(args.precision, "tflite"),
        args.precision,
        images,
        labels,
        missing,
        open_candidate,
        {
            "operators": litert.operators(content),
        },
    )
