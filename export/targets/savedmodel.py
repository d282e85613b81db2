"""SavedModels: of a run again, and of a Keras file, verified before they get their place."""

from export.runtime import preprocessing
from export.runtime.local_models import SavedModel
from export.targets import exporter
from export.verification import keras_source, release, trained_weights
from export.verification.source import open_run
from training.cli import InputError
from training.runs import files, saved_model


def of_run(args):
    """Writes a run's SavedModel as the parsed options say; returns the path of the version."""
    keras_source.refuse_options(args, "no_fold")
    stated = preprocessing.from_options(args)
    folder = args.run or files.newest_finished()
    exporter.refuse_for_run(folder, args.dataset, stated)
    run = open_run(folder, finished=False)
    base = run.folder / "saved_model"
    return saved_model.save(
        run.model,
        base,
        run.config.get("class_names") or run.dataset(args.data_dir).class_names,
        run.mean,
        run.std,
        run.job.crop_fraction,
        version=args.version or _next(base),
        fold=args.fold,
    )


def of_keras(args):
    """Writes and verifies the SavedModel of a `.keras` file; returns the path of the version.

    Raises:
        VerificationError: If a stage failed. Then the folder is unchanged.
    """
    args.precision = "float32"
    source = keras_source.open_file(args, preprocessing.from_options(args))
    if isinstance(source, keras_source.tensors.TensorSource):
        raise InputError(
            f"{args.keras} is not an image classifier: expected one image, and logits or "
            "probabilities [None, classes]. Keras' model.export() writes a SavedModel of it"
        )
    base = source.folder / "saved_model"
    images, labels = exporter.sample(source, "float32")
    export = release.Export(
        source=source,
        path=base,
        content=None,
        open_file=lambda path: (SavedModel(path), {}),
        precision="float32",
        images=images,
        labels=labels,
        missing_weights=trained_weights.missing(source),
    )
    version, reports = args.version or _next(base), []

    def check(folder):
        report, failure = release.examine(export, folder)
        written = [file for file in folder.rglob("*") if file.is_file()]
        report |= {
            "file": f"{base.name}/{version}",
            "bytes": sum(file.stat().st_size for file in written),
        }
        release.show(report)
        if failure:
            raise failure
        reports.append(report)

    written = saved_model.write(source.classify.loaded, base, source.class_names, version, check)
    files.write_json(source.folder / "saved_model.verification.json", reports[0])
    return written


def _next(base):
    """Returns the number after the newest version in a folder."""
    versions = [int(path.name) for path in base.glob("*") if path.name.isdecimal()]
    return max(versions, default=0) + 1
