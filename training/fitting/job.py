"""From a `Job` to a finished run folder."""

import contextlib
import dataclasses

import keras
import numpy as np

from keras_nam.attention import ATTENTIONS
from keras_nam.models import parse_arch
from training import recipes
from training.cli import InputError, check_name
from training.data import augment, datasets, sources, streams
from training.fitting import checkpoints, devices, finishing, loop, multihost, network
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
    dataset = datasets.load(**job.data)
    job = _resolved(job, dataset, say)
    check_augmentation(job, placement)
    steps = streams.steps_per_epoch(dataset.train, job.recipe.batch_size)
    job = dataclasses.replace(job, steps_per_epoch=min(job.steps_per_epoch or steps, steps))
    config = _configuration(job, dataset, placement)
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
    if dataset.validation is not None:
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


def check(job):
    """Raises an InputError for settings that no data set and no machine could have."""
    try:
        _, _, attention = parse_arch(job.arch)
    except ValueError as error:
        raise InputError(f"--arch {job.arch}: {error}") from None
    if job.stem is not None:
        check_name("stem", job.stem, recipes.STEMS)
    augment.compose(job.recipe.augment)
    if attention and len({*job.recipe.progressive_sizes}) > 1 and _has_positions(attention):
        raise InputError(
            f"--arch {job.arch} has parameters for each position, so all images must have one "
            "size. Give --progressive-sizes without numbers."
        )


def check_augmentation(job, placement):
    """Raises an InputError for an augmentation of another size, or of one process only."""
    augment.check(job.recipe.augment, *job.image_size)
    alone = augment.compose(job.recipe.augment).whole_batch
    if placement.shard[1] > 1 and alone:
        raise InputError(
            f"--augment {alone[0]}: Keras' layers draw for a whole batch, which several processes "
            f"share. Expected some of {', '.join(augment.AUGMENTATIONS)}."
        )


def _resolved(job, dataset, say):
    """Returns the job with every setting that depends on the data set."""
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    height, width, _ = dataset.image_shape
    recipe, named = job.recipe, recipes.RECIPES[job.recipe_name]
    if recipe.progressive_sizes == named.progressive_sizes and height == width:
        recipe = recipe.for_size(height)
    if recipe.progressive_sizes and (height, width) != 2 * recipe.progressive_sizes[-1:]:
        raise InputError(
            f"--progressive-sizes {recipe.progressive_sizes}: expected {height}, the size of the "
            f"network's images ({height}×{width}), as the last, and a square."
        )
    if recipe.mean == recipes.IMAGENET:
        recipe = dataclasses.replace(recipe, mean=recipes.IMAGENET_MEAN, std=recipes.IMAGENET_STD)
    if recipe.mean == recipes.AUTO:
        mean, std = streams.mean_and_std(dataset.train)
        say(f"mean {mean}, std {std} of the training images")
        recipe = dataclasses.replace(recipe, mean=mean, std=std)
    stem = job.stem
    if stem is None:
        stem = "cifar" if max(height, width) <= recipes.LARGEST_OF_CIFAR_STEM else "imagenet"
        if stem != "cifar":
            say(f"--stem {stem}, for images of {height}×{width}")
    return dataclasses.replace(
        job,
        recipe=recipe,
        stem=stem,
        image_size=(height, width),
        crop_fraction=dataset.resize.crop_fraction,
    )


def _has_positions(attention):
    """Whether the shapes of an attention's weights depend on the size of its input."""
    shapes = []
    for size in (4, 8):
        layer = ATTENTIONS[attention].layer()
        layer(np.zeros((1, size, size, 16), "float32"))
        shapes.append([weight.shape for weight in layer.weights])
    return shapes[0] != shapes[1]
