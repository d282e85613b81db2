"""From a recipe to a finished run folder."""

import contextlib
import dataclasses

import keras

from keras_nam.models import STEMS, parse_arch
from training.cli import InputError, check_name
from training.data import augment, streams
from training.fitting import checkpoints, devices, finishing, loop, multihost, network
from training.recipes import IMAGE_SIZE, Job  # noqa: F401 - callers take `fit.Job`
from training.runs import files, report


def train(job, say=print):
    """Trains, evaluates on the test set and leaves the run folder.

    Args:
        job: A `Job`.
        say: Function of a line for a person.

    Returns:
        The result, what `result.json` holds.

    Raises:
        InputError: On settings that do not fit; nothing has been written then.
        FailedError: If the loss is not finite, that of the training or that of the test set.
        Terminated: On SIGTERM, after a checkpoint.
    """
    check(job)
    placement = devices.place(job.strategy, say)
    if not placement.writes:
        say = _silent
    precision = devices.choose_precision(job.precision, say)
    recipe = devices.scaled(job.recipe, placement.devices, job.scale_lr)
    devices.check_batch(recipe.batch_size, placement)
    job = dataclasses.replace(job, recipe=recipe)
    keras.utils.set_random_seed(job.seed)
    dataset = streams.load(job.dataset, job.data_dir, job.validation_split, job.seed)
    whole_epoch = streams.steps_per_epoch(dataset.train, recipe.batch_size)
    steps = min(job.steps_per_epoch or whole_epoch, whole_epoch)
    settings = configuration(job, dataset, steps, precision, placement)
    multihost.agree(
        {
            **files.flat(settings),
            **settings["environment"]["versions"],
            "git revision": settings["environment"]["git_revision"],
            "checkpoint": checkpoints.newest_position(job.folder),
        }
    )
    held = files.opened(job.folder, settings, job.resume)
    with held if placement.writes else contextlib.nullcontext():
        if files.is_finished(job.folder):
            say(f"{job.folder} is finished already.")
            result = files.read_json(job.folder / "result.json")
        else:
            result = _train_rest(job, dataset, steps, precision, placement, say)
    if placement.writes:
        finishing.check(result, job.folder)
    return result


def _silent(line):
    """Of several processes, one speaks."""


def _train_rest(job, dataset, steps, precision, placement, say):
    """Trains from the newest checkpoint of the run folder on, or from the start; finishes it."""
    recipe, folder = job.recipe, job.folder
    say(f"{dataset.source}: {len(dataset.train)} training images, {dataset.held_out_name} held out")

    with placement.scope():
        model, position, warnings = checkpoints.load_newest(folder)
        if model is None:
            model = network.compiled_model(job, dataset, steps, precision)
        network.execute_here(model, steps)
        if placement.mirrored and job.sync_bn:
            network.synchronize(model)
        models = network.at_sizes(model, recipe, steps)
    for warning in warnings:
        say(f"warning: {warning}")
    say(
        f"{job.arch}: {model.count_params():,} parameters, {precision}, "
        f"epochs {position.epochs + 1}–{recipe.epochs} of {steps} steps, into {folder}"
    )
    loop.fit(job, models, dataset, steps, position, folder, placement, say)
    multihost.part()
    if not placement.writes:
        return None
    if keras.backend.backend() != "tensorflow":
        return finishing.in_tensorflow(folder, job.data_dir, job.fold)
    if job.validation_split:
        model = report.load_model(folder / "best.keras")
    return finishing.finish(folder, model, dataset, job.fold, say)


def configuration(job, dataset, steps, precision, placement):
    """Returns what `config.json` holds: every resolved setting, and where it ran."""
    return {
        "arch": job.arch,
        "recipe": job.recipe_name,
        "recipe_settings": dataclasses.asdict(job.recipe),
        "stem": job.stem,
        "seed": job.seed,
        "dataset": job.dataset,
        "classes": len(dataset.class_names),
        "training_images": len(dataset.train),
        "validation_split": job.validation_split,
        "held_out": dataset.held_out_name,
        "steps_per_epoch": steps,
        "precision": precision,
        "sync_bn": job.sync_bn,
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
    """Raises an InputError for names that are in no table, before anything is read or written."""
    try:
        _, _, attention = parse_arch(job.arch)
    except ValueError as error:
        raise InputError(f"--arch {job.arch}: {error}") from None
    check_name("stem", job.stem, STEMS)
    augment.compose(job.recipe.augment)
    if attention in ("nam_spatial", "nam_full") and set(job.recipe.image_sizes) != {IMAGE_SIZE}:
        raise InputError(
            f"--arch {job.arch} has parameters for each position, which are bound to one size of "
            f"the images. Give --image-sizes {IMAGE_SIZE}."
        )
