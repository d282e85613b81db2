"""From a `Job` to a finished run folder."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np

from keras_nam.attention import ATTENTIONS
from keras_nam.models import parse_arch
from training.cli import FailedError, InputError
from training.data import augment, streams
from training.fitting import checkpoints, devices, loop, multihost, network
from training.runs import files, report, saved_model
from training.runs.scores import evaluate

TRAIN = Path(__file__).parents[1] / "train.py"


def train(job, say=print):
    """Trains, evaluates on the test set and leaves the run folder.

    Args:
        job: A `Job`.
        say: Callable that receives progress messages.

    Returns:
        The result, the content of `result.json`; `None` in a process that writes nothing.

    Raises:
        InputError: If the settings do not fit. Nothing has been written then.
        FailedError: If the loss, in training or on the test set, is not finite.
        Terminated: On SIGTERM, after a checkpoint.
    """
    check(job)
    placement = devices.place(job.strategy, say)
    if not placement.writes:
        say = _silent
    job = dataclasses.replace(
        job,
        precision=devices.choose_precision(job.precision, say),
        recipe=devices.scaled(job.recipe, placement.devices, job.scale_lr),
    )
    devices.check_batch(job.recipe.batch_size, placement)
    keras.utils.set_random_seed(job.seed)
    dataset = streams.load(job.dataset, job.data_dir, job.validation_split, job.seed)
    _check_size(job.recipe, dataset)
    steps = streams.steps_per_epoch(dataset.train, job.recipe.batch_size)
    job = dataclasses.replace(job, steps_per_epoch=min(job.steps_per_epoch or steps, steps))
    config = _configuration(job, dataset, placement)
    multihost.agree(
        {
            **files.flat(config),
            **config["environment"]["versions"],
            "git revision": config["environment"]["git_revision"],
            "checkpoint": str(checkpoints.position_of(job.folder / "last.keras")),
        }
    )
    opened = files.opened(job.folder, config, job.resume)
    with opened if placement.writes else contextlib.nullcontext():
        if files.is_finished(job.folder):
            say(f"{job.folder} is finished already.")
        else:
            _train_rest(job, dataset, placement, say)
    if not placement.writes:
        return None
    if not files.is_finished(job.folder):
        finish_in_tensorflow(job)
    result = files.read_json(job.folder / "result.json")
    if result["loss"] is None:
        raise FailedError(
            f"{job.folder}: the loss on the test set is not finite (null in result.json), though "
            "the weights are. Train for more steps, since the statistics of the normalizations may "
            "not have settled, or with --precision float32, in another --run-dir."
        )
    return result


def _silent(line):
    """Prints nothing: only the first of several processes prints."""


def _train_rest(job, dataset, placement, say):
    """Trains from the newest checkpoint, or from the start; finishes the run on TensorFlow."""
    say(f"{dataset.source}: {len(dataset.train)} training images, {dataset.held_out_name} held out")
    with placement.scope():
        model, position, warnings = checkpoints.load_newest(job.folder)
        if model is None:
            model = network.compiled_model(job, len(dataset.class_names))
        if placement.mirrored and job.sync_bn:
            network.synchronize(model)
        models = network.at_sizes(model, job)
    for warning in warnings:
        say(f"warning: {warning}")
    say(
        f"{job.arch}: {model.count_params():,} parameters, {job.precision}, epochs "
        f"{position.epochs + 1}–{job.recipe.epochs} of {job.steps_per_epoch} steps, into "
        f"{job.folder}"
    )
    loop.fit(job, models, dataset, position, placement, say)
    multihost.part()
    if keras.backend.backend() == "tensorflow":
        if job.validation_split:
            model = report.load_model(job.folder / "best.keras")
        finish(job, model, dataset, say)


def finish(job, model, dataset, say):
    """Evaluates on the test set, writes the SavedModel and, last of all, `result.json`."""
    started = time.perf_counter()
    folder, recipe = job.folder, job.recipe
    rows = files.read_history(folder / "history.csv")
    stream = streams.evaluation_stream(dataset.test, recipe.batch_size, recipe.mean, recipe.std)
    scores = evaluate(model, stream)
    float32, names = network.with_dtype(model, "float32"), dataset.class_names
    mean, std = recipe.mean, recipe.std
    saved_model.save(float32, folder / "saved_model", names, mean, std, fold=job.fold)
    result = {
        "arch": job.arch,
        "split": f"test ({len(dataset.test)} images)",
        "weights": "best.keras",
        **{key: round(scores[key], 6) for key in ("loss", "top1", "top5")},
        "parameters": model.count_params(),
        "epochs": rows[-1]["epoch"],
        "minutes": round(sum(row["seconds"] for row in rows) / 60, 2),
        "data": dataset.source,
    }
    files.write_json(folder / "result.json", result)
    say(
        f"test top-1 {scores['top1']:.2%}, top-5 {scores['top5']:.2%}, loss {scores['loss']:.4f} "
        f"({time.perf_counter() - started:.0f} s to evaluate and save)"
    )


def finish_in_tensorflow(job):
    """Finishes a run of another backend: train.py resumes after its last epoch.

    Raises:
        FailedError: If that process fails; it has printed the reason.
    """
    job = dataclasses.replace(job, strategy="none", scale_lr="none", resume=True)
    command = [sys.executable, str(TRAIN), *job.as_options()]
    environment = {key: value for key, value in os.environ.items() if key not in multihost.NAMES}
    subprocess.run(command, env={**environment, "KERAS_BACKEND": "tensorflow"})
    if not files.is_finished(job.folder):
        raise FailedError(
            f"{job.folder} is trained, but finishing failed (see above). Retry with --resume and "
            "KERAS_BACKEND=tensorflow."
        )


def _configuration(job, dataset, placement):
    """Returns the content of `config.json`: every resolved setting, the data and the machine."""
    return {
        **job.as_config(),
        "classes": len(dataset.class_names),
        "training_images": len(dataset.train),
        "held_out": dataset.held_out_name,
        "environment": {
            "data": dataset.source,
            "backend": keras.backend.backend(),
            "strategy": job.strategy,
            "processes": placement.shard[1],
            "devices": placement.devices,
            **files.environment(),
        },
    }


def check(job):
    """Raises an InputError for settings that no data set and no machine could have."""
    try:
        _, _, attention = parse_arch(job.arch)
    except ValueError as error:
        raise InputError(f"--arch {job.arch}: {error}") from None
    augment.check(job.recipe.augment, job.recipe.network_size)
    several_sizes = len({*job.recipe.image_sizes}) > 1
    if several_sizes and attention and _has_weights_by_position(attention):
        raise InputError(
            f"--arch {job.arch} has parameters for each position, so all images must have one "
            f"size. Give --image-sizes {job.recipe.network_size}."
        )


def _has_weights_by_position(attention):
    """Whether the shapes of an attention's weights depend on the size of its input."""
    shapes = []
    for size in (4, 8):
        layer = ATTENTIONS[attention].layer()
        layer(np.zeros((1, size, size, 16), "float32"))
        shapes.append([weight.shape for weight in layer.weights])
    return shapes[0] != shapes[1]


def _check_size(recipe, dataset):
    height, width, _ = dataset.image_shape
    if (height, width) != (recipe.network_size, recipe.network_size):
        raise InputError(
            f"--image-sizes {recipe.image_sizes}: expected {height}, the size of the images of "
            f"{dataset.name}, as the last."
        )
