"""From a `Job` to a finished run folder."""

import contextlib
import dataclasses

import keras

from training.data import datasets, sources
from training.fitting import (
    checkpoints,
    devices,
    find_rate,
    finishing,
    loop,
    multihost,
    network,
    resolve,
)
from training.runs import files, report


def train(job, say=print):
    """Trains, evaluates on the test set and leaves the run folder.

    Args:
        job: A `Job`.
        say: Callable that receives progress messages.

    Returns:
        The result, the content of `result.json`.

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
    job = resolve.normalization(job, dataset, given, say)
    job = resolve.steps(job, dataset)
    if job.find_lr:
        return _find_rate(job, dataset, say)
    config = {**_configuration(job, dataset, placement), "init": given}
    files.check_listing(job.folder, dataset.listing)
    multihost.agree(
        {
            **files.flat(config),
            **config["environment"]["versions"],
            "git revision": config["environment"]["git_revision"],
            "checkpoint": checkpoints.newest_position(job.folder),
        }
    )
    opened = files.opened(job.folder, config, job.resume)
    with opened if placement.writes else contextlib.nullcontext():
        if placement.writes:
            files.write_listing(job.folder, dataset.listing)
        if files.is_finished(job.folder):
            say(f"{job.folder} is finished already.")
            result = files.read_json(job.folder / "result.json")
        else:
            result = _train_rest(job, dataset, placement, say)
    if placement.writes:
        finishing.check(result, job.folder)
    return result


def _silent(line):
    """Prints nothing: only the first of several processes prints."""


def _train_rest(job, dataset, placement, say):
    """Trains from the run folder's newest checkpoint, or from the start, and finishes the run."""
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
    if not placement.writes:
        return None
    if keras.backend.backend() != "tensorflow":
        return finishing.in_tensorflow(job)
    if dataset.validation is not None or job.recipe.ema:
        model = report.load_model(job.folder / "best.keras")
    return finishing.finish(job, model, dataset, say)


def _configuration(job, dataset, placement):
    """Returns the content of `config.json`: every resolved setting, the data and the machine."""
    return {
        **job.as_config(),
        "dataset": sources.full_name(job.dataset),
        "class_names": dataset.class_names,
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


def _find_rate(job, dataset, say):
    model = network.compiled_model(job, len(dataset.class_names))
    model.optimizer.learning_rate = find_rate.Sweep()
    batches = loop.training_batches(job, dataset)
    return find_rate.find_rate(model, batches, job.folder.with_name(job.folder.name + "-lr"), say)
