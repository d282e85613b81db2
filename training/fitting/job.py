"""From a `Job` to a finished run folder."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import keras

from training.cli import FailedError
from training.data import datasets, sources, streams
from training.fitting import (
    checkpoints,
    devices,
    find_rate,
    loop,
    multihost,
    network,
    pace,
    resolve,
)
from training.runs import board, files, report, saved_model
from training.runs.scores import evaluate

TRAIN = Path(__file__).parents[1] / "train.py"


def train(job, say=print, callbacks=()):
    """Trains, evaluates on the test set and leaves the run folder.

    Args:
        job: A `Job`.
        say: Callable that receives progress messages.
        callbacks: Further `keras.callbacks.Callback`s, such as of an experiment tracker, for the
            process that writes. A training of several image sizes calls Keras' `fit` once for each
            size, so `on_train_begin` and `on_train_end` are called once for each.

    Returns:
        The result, the content of `result.json`; `None` in a process that writes nothing, and if
        the job only asks for an answer, such as `--dry-run`.

    Raises:
        InputError: If the settings do not fit. Nothing has been written then.
        FailedError: If the loss, in training or on the test set, is not finite.
        Terminated: On SIGTERM, after a checkpoint.
    """
    resolve.check(job)
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
    dataset = datasets.load(**job.data)
    job = resolve.for_data(job, dataset, placement, say)
    given = resolve.initial_weights(job, len(dataset.class_names), say)
    normalization = job.recipe.normalization
    job = resolve.normalization(job, dataset, given, say)
    job = resolve.steps(job, dataset)
    if job.find_lr:
        return _find_rate(job, dataset, say)
    if job.minutes:
        job = pace.fit_epochs(job, dataset, placement, say)
    job = resolve.average(job, say)
    config = {**_configuration(job, dataset, placement, normalization), "init": given}
    resolve.warn_of_few_steps(job, say)
    if job.dry_run:
        say("\n".join(f"{name}: {value}" for name, value in files.described(config).items()))
        return pace.describe(job, dataset, placement, say)
    files.check_listing(job.folder, dataset.listing)
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
        if placement.writes:
            files.write_listing(job.folder, dataset.listing)
        if files.is_finished(job.folder):
            say(f"{job.folder} is finished already.")
        else:
            _train_rest(job, dataset, placement, say, callbacks)
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


def _train_rest(job, dataset, placement, say, callbacks):
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
    loop.fit(job, models, dataset, position, placement, say, callbacks)
    multihost.part()
    if keras.backend.backend() == "tensorflow":
        if dataset.validation is not None or job.recipe.ema:
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
    how = (recipe.mean, recipe.std, job.crop_fraction)
    saved_model.save(float32, folder / "saved_model", names, *how, fold=job.fold)
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
    board.write_result(folder, result, scores, dataset.test, names)
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
    # Its epochs are decided, so `minutes` must not decide them again.
    job = dataclasses.replace(job, strategy="none", scale_lr="none", resume=True, minutes=None)
    command = [sys.executable, str(TRAIN), *job.as_options()]
    environment = {key: value for key, value in os.environ.items() if key not in multihost.NAMES}
    subprocess.run(command, env={**environment, "KERAS_BACKEND": "tensorflow"})
    if not files.is_finished(job.folder):
        raise FailedError(
            f"{job.folder} is trained, but finishing failed (see above). Retry with --resume and "
            "KERAS_BACKEND=tensorflow."
        )


def _configuration(job, dataset, placement, normalization):
    """Returns the content of `config.json`: every resolved setting, the data and the machine."""
    return {
        **job.as_config(),
        "dataset": sources.full_name(job.dataset),
        "class_names": dataset.class_names,
        "classes": len(dataset.class_names),
        "pictures": dataset.listing_hash,
        "training_images": len(dataset.train),
        "held_out": dataset.held_out_name,
        "environment": {
            "data": dataset.source,
            "normalization": normalization,
            "backend": keras.backend.backend(),
            "strategy": job.strategy,
            "processes": placement.shard[1],
            "devices": placement.devices,
            **files.environment(),
        },
    }


def _find_rate(job, dataset, say):
    job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, progressive_sizes=()))
    model = network.compiled_model(job, len(dataset.class_names))
    model.optimizer.learning_rate = find_rate.Sweep()
    batches = loop.training_batches(job, dataset)
    return find_rate.find_rate(model, batches, job.folder.with_name(job.folder.name + "-lr"), say)
