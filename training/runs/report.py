"""The report on a trained network: a table of its classes and a picture of its mistakes."""

import itertools
import zipfile
from pathlib import Path

import keras
import numpy as np

import keras_nam  # noqa: F401 - registers the layers that a .keras file names
from training import console, jobs, recipes
from training.cli import FailedError, InputError, check_name
from training.data import datasets, streams
from training.runs import files, plots
from training.runs.scores import accuracy_by_class, answered, evaluate, worst_confusions

SHOWN = 10
SPLITS = ("test", "validation")


def report(run, split_name, flip, data_dir, recipe_name, dataset_name):
    """Evaluates and prints, and draws `mistakes.png` beside the model.

    Args:
        run: Path of a run folder or a `.keras` file; the newest finished run if `None`.
        split_name: `"test"` or `"validation"`.
        flip: Whether each image's logits are averaged with its mirror image's.
        data_dir: The data set's folder, or `None`.
        recipe_name: The recipe, for its normalization, of a file without a run; else `None`.
        dataset_name: The data set of a file without a run; else `None`.

    Returns:
        The scores, from `scores.evaluate`.

    Raises:
        InputError: If the model or the split is missing, or the model has other classes.
        FailedError: If some logits are not finite, after the report.
    """
    check_name("part as --split", split_name, SPLITS)
    path = Path(run) if run else files.newest_finished()
    file = path / "best.keras" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} is missing; give a run folder or a .keras file.")
    model = load_model(file)
    dataset, recipe = _data(file, model, recipe_name, dataset_name, data_dir)
    for warning in dataset.warnings:
        console.say(f"warning: {warning}")
    split = getattr(dataset, split_name)
    if split is None:
        raise InputError(
            f"--split {split_name}: {path} has no such part; expected test, or validation for a "
            "run with --validation-split."
        )
    stream = streams.evaluation_stream(split, 256, recipe.mean, recipe.std)
    scores = evaluate(model, stream, flip)
    flipped = ", each with its mirror image" if flip else ""
    _print(scores, file, f"{split_name}, {len(split)} images{flipped}", dataset)
    picture = file.parent / f"{'' if path.is_dir() else file.stem + '-'}mistakes.png"
    files.write_atomically(
        picture, lambda path: plots.mistakes(scores, split, dataset.class_names, 32, path)
    )
    console.say(f"mistakes: {picture}")
    unanswered = np.count_nonzero(~answered(scores))
    if unanswered:
        raise FailedError(
            f"{file}: the logits of {unanswered} of {len(split)} images are not finite. They count "
            "as mistakes, and the loss cannot be computed."
        )
    return scores


def check_backend():
    """Raises an InputError unless Keras is on TensorFlow, which evaluates and exports models."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"KERAS_BACKEND is {keras.backend.backend()}: expected tensorflow, for a training's "
            "results of every backend. Unset it."
        )


def load_model(file):
    """Returns the model of a `.keras` file; InputError if it is not one."""
    check_backend()
    try:
        return keras.saving.load_model(file, compile=False)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{file} cannot be loaded as a model: {reason}") from None


def _data(file, model, recipe_name, dataset_name, data_dir):
    """Returns the data set and the recipe of a run, or those of the command line without one."""
    folder, classes = file.parent, model.output_shape[-1]
    if (folder / files.CONFIG).is_file():
        config = files.read_json(folder / files.CONFIG)
        job = jobs.Job.from_config(config, folder)
        for option, given in (("--recipe", recipe_name), ("--dataset", dataset_name)):
            if given:
                raise InputError(f"{option} {given}: {folder} is a run, which has its own.")
        return datasets.of_run(folder, job, config, classes, data_dir), job.recipe
    dataset_name = dataset_name or jobs.Job.dataset
    size = tuple(length for length in model.input_shape[1:3] if length)
    dataset = datasets.load(dataset_name, data_dir, image_size=size, cache="none")
    if classes != len(dataset.class_names):
        raise InputError(
            f"{file} has {classes} classes and {dataset_name} {len(dataset.class_names)}; name its "
            "set with --dataset."
        )
    return dataset, recipes.get(recipe_name or jobs.Job.recipe_name)


def _print(scores, file, split, dataset):
    console.say(f"{file} on {split}: {dataset.source}")
    console.say("loss {loss:.4f}   top-1 {top1:.2%}   top-5 {top5:.2%}".format(**scores))
    names = dataset.class_names
    classes = [(name, f"{top1:.0%}") for name, top1 in accuracy_by_class(scores, names)]
    parts = (classes[:SHOWN], classes[: -SHOWN - 1 : -1], worst_confusions(scores, names, SHOWN))
    rows = [
        (*worst, *best, *map(str, confusion))
        for worst, best, confusion in itertools.zip_longest(*parts, fillvalue=("", "", ""))
    ]
    console.table(
        ("worst classes", "top-1", "best classes", "top-1", "label", "taken for", "images"),
        rows,
        words=("worst classes", "best classes", "label", "taken for"),
    )
