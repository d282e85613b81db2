"""From a command line to a verified file: the steps that all targets share."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.runtime import preprocessing
from export.verification import keras_source, tensors, trained_weights
from export.verification.release import Export, released_beside, verify_and_release
from export.verification.source import open_source
from training.cli import InputError
from training.runs.saved_model import preprocessing as describe

# int8 is verified on all test images: its tolerance of half a point is five images of a thousand.
SAMPLES = {"float32": 1000, "float16": 1000, "int8": None}
CALIBRATION_IMAGES = 512


class Target(NamedTuple):
    """A kind of exported file. Each module beside this one has one, as `TARGET`.

    Attributes:
        name: Of the folder in a run.
        suffix: Of the file, without the dot.
        convert: Function (`Source`, parsed options, calibration images) -> `Converted`.
        open_file: Function (path, parsed options, images) -> the model, as `verify` takes it, and
            a dictionary of facts for the report.
        whole: Whether every constant of a float32 file is a trained weight.
    """

    name: str
    suffix: str
    convert: Callable
    open_file: Callable
    whole: bool = True


class Converted(NamedTuple):
    """A converted model.

    Attributes:
        content: The file's bytes.
        facts: Dictionary for the report.
        constants: Dictionary name -> float32 array, what the float32 file holds; `None` if there
            is no float32 file to compare with the trained weights.
        companions: As in `Export`.
    """

    content: bytes
    facts: dict
    constants: dict | None
    companions: dict


def export(target, args):
    """Exports to a `Target` as the parsed options say, verifies, releases; returns the report."""
    stated = preprocessing.from_options(args)
    if args.keras:
        source = keras_source.open_file(args, stated)
    else:
        keras_source.refuse_options(args)
        source = open_source(
            args.run, args.saved_model, args.data_dir, args.dataset or "cifar100", stated
        )
        if source.run:
            refuse_for_run(source.folder, args.dataset)
    folder = Path(args.output) if args.output else source.folder / target.name
    return write(target, source, folder / file_name(args.precision, target.suffix), args)


def refuse_for_run(folder, dataset, stated=None):
    """Raises an InputError for a data set or a `Preprocessing`, of which a run has its own."""
    given = f"--dataset {dataset}" if dataset else stated
    if given:
        raise InputError(
            f"{given}: {folder} is a run, which has its own data set and normalization. Leave "
            "that out."
        )


def write(target, source, path, args):
    """Converts a source, verifies the file and releases it as `path`; returns the report.

    Args:
        target: A `Target`.
        source: A `Source` or a `TensorSource`.
        path: Path of the file.
        args: An object with the attributes `precision`, `samples`, `calibration_images`, and for
            ONNX `opset` and `provider`, as the options of the command line.
    """
    if isinstance(source, tensors.TensorSource):
        available = len(source.samples)
        images = source.samples[: _number("--samples", args.samples, available, available)]
        labels = description = None
        tensors.check_precision(source.name, args.precision)
        if args.calibration_images is not None:
            raise InputError(
                f"--calibration-images: {source.name} is not an image classifier: its ranges are "
                "measured on all inputs. Leave the option out."
            )
        calibration = source.samples
    else:
        images, labels = sample(source, args.precision, args.samples)
        calibration = calibration_images(source, args.calibration_images)
        description = describe(source.dataset.resize, source.class_names)
    released_beside(path, args.precision, description)  # before a conversion of minutes
    converted = target.convert(source, args, calibration)
    return verify_and_release(
        Export(
            source=source,
            path=path,
            content=converted.content,
            open_file=lambda path: target.open_file(path, args, images),
            precision=args.precision,
            images=images,
            labels=labels,
            missing_weights=trained_weights.missing(source, converted.constants, target.whole),
            facts={"options": _options(args), **converted.facts},
            companions=converted.companions,
            preprocessing=description,
        )
    )


def _options(args):
    """Returns the options that were given, for the report, without the machine's paths."""
    return {
        key: value
        for key, value in vars(args).items()
        if value is not None and "/" not in str(value)
    }


def file_name(precision, suffix):
    """Returns `model.onnx`, `model.int8.onnx` and so on."""
    return f"model.{suffix}" if precision == "float32" else f"model.{precision}.{suffix}"


def sample(source, precision, count=None):
    """Returns test images, uint8, and their labels, or `None` if those do not fit.

    They are drawn at random, always the same ones, because arrays may be ordered by class. The
    images of a folder are `store.Images`: a batch at a time is read.
    """
    test = source.dataset.test
    count = _number("--samples", count, SAMPLES[precision] or len(test), len(test))
    chosen = _drawn(test, count)
    return chosen.images, None if source.no_labels else chosen.labels


def calibration_images(source, count=None):
    """Returns training images, uint8 [count, H, W, 3], which no verification uses.

    The images of a folder are `store.Images`, read by a precision that measures ranges on them.
    """
    train = source.dataset.train
    count = _number("--calibration-images", count, CALIBRATION_IMAGES, len(train))
    return _drawn(train, count).images


def _drawn(split, count):
    """Returns `count` images of a `Split`, drawn at random, in their order there."""
    if count == len(split):
        return split
    chosen = np.random.default_rng(0).permutation(len(split))[:count]
    return split.take(np.sort(chosen))


def _number(option, count, default, available):
    """Returns an option's number of images, or its default; InputError if there are not so many."""
    count = min(default, available) if count is None else count
    if not 1 <= count <= available:
        raise InputError(f"{option} {count}: expected 1 to {available}")
    return count
