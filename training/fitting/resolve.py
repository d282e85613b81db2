"""The settings of a training that depend on each other, on the data set and on given weights."""

import dataclasses
from pathlib import Path

import keras

import keras_nam
from keras_nam.attention import ATTENTIONS
from keras_nam.models import parse_arch
from training import jobs, recipes
from training.cli import InputError
from training.data import augment, streams
from training.fitting import initial, network
from training.runs import files
from training.settings import refuse

EMA_SPANS = 10  # at least, in a training


def check(job):
    """Raises an InputError for settings that no data set and no machine could have."""
    try:
        _, _, attention = parse_arch(job.arch)
    except ValueError as error:
        raise InputError(f"--arch {job.arch}: {error}") from None
    augment.compose(job.recipe.augment)
    if job.minutes and job.recipe.epochs != recipes.RECIPES[job.recipe_name].epochs:
        raise InputError("--minutes chooses the number of epochs: leave out --epochs.")
    several_sizes = len({*job.recipe.progressive_sizes}) > 1
    if several_sizes and attention and ATTENTIONS[attention].per_position:
        raise InputError(
            f"--arch {job.arch} has parameters for each position, so all images must have one "
            "size. Give --progressive-sizes without numbers."
        )
    if job.recipe.freeze != "none":
        initial.freeze(keras_nam.create_model(job.arch), job.recipe.freeze)
    elif job.recipe.freeze_epochs:
        raise InputError("--freeze-epochs: expected --freeze bn, backbone or stages:N.")
    if job.recipe.decay_exempt:
        _check_exempt(job)
    mean, std = job.recipe.mean, job.recipe.std
    if mean in (recipes.AUTO, recipes.IMAGENET) and std != recipes.RECIPES[job.recipe_name].std:
        raise InputError(f"--std {std}: --mean {mean[0]} brings its own. Leave out --std.")
    _check_nam(job)


def _check_nam(job):
    for name in network.OF_NAM:
        usual = getattr(recipes.RECIPES[job.recipe_name], name)
        if getattr(job.recipe, name) != usual and not network.has_nam_gates(job.arch):
            refuse(job.recipe, name, f"{usual}, since {job.arch} has no NAM gate")


def _check_exempt(job):
    if job.recipe.optimizer == "adamw":
        raise InputError("--decay-exempt: expected --optimizer sgd or muon.")
    paths = [variable.path for variable in keras_nam.create_model(job.arch).trainable_variables]
    for name in job.recipe.decay_exempt:
        if not any(name in path for path in paths):
            raise InputError(
                f"--decay-exempt {name}: expected a part of a variable's path, such as {paths[-2]}."
            )


def for_data(job, dataset, placement, say):
    """Returns the job with the image size, stem and progressive sizes for a data set.

    Raises:
        InputError: If a setting does not fit the data set or the devices.
    """
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    height, width, _ = dataset.image_shape
    given, job = job, for_size(job, height, width)
    recipe = job.recipe
    if recipe != given.recipe:
        say(f"--progressive-sizes {' '.join(map(str, recipe.progressive_sizes))}")
    if recipe.progressive_sizes and (height, width) != 2 * recipe.progressive_sizes[-1:]:
        raise InputError(
            f"--progressive-sizes {recipe.progressive_sizes}: expected {height}, the size of the "
            f"network's images ({height}×{width}), as the last, and a square."
        )
    if given.stem is None and job.stem != "cifar":
        say(f"--stem {job.stem}, for images of {height}×{width}")
    _check_augmentation(recipe, height, width, placement)
    _check_end(recipe, dataset, placement)
    if job.find_lr and placement.shard[1] > 1:
        raise InputError("--find-lr: expected one process.")
    if recipe.freeze != "none":
        say(_frozen(job))
    return dataclasses.replace(job, crop_fraction=dataset.resize.crop_fraction)


def for_size(job, height, width):
    """Returns the job with the stem and progressive sizes for images of a size, pixels."""
    recipe, stem = job.recipe, job.stem
    own_sizes = recipe.progressive_sizes != recipes.RECIPES[job.recipe_name].progressive_sizes
    if height == width and not own_sizes:
        recipe = recipe.for_size(height)
    if stem is None:
        stem = "cifar" if max(height, width) <= jobs.LARGEST_OF_CIFAR_STEM else "imagenet"
    return dataclasses.replace(job, recipe=recipe, stem=stem, image_size=(height, width))


def _check_augmentation(recipe, height, width, placement):
    augment.check(recipe.augment, height, width)
    alone = augment.compose(recipe.augment).whole_batch
    if placement.shard[1] > 1 and alone:
        raise InputError(
            f"--augment {alone[0]}: Keras' layers draw for a whole batch, which several processes "
            f"share. Expected some of {', '.join(augment.AUGMENTATIONS)}."
        )


def _check_end(recipe, dataset, placement):
    if recipe.patience and dataset.validation is None:
        raise InputError("--patience: expected --validation-split above 0, by which it decides.")
    if recipe.patience and placement.shard[1] > 1:
        raise InputError("--patience: expected one process, which alone sees the history.")
    if recipe.ema and keras.backend.backend() != "tensorflow":
        raise InputError("--ema: expected the backend tensorflow. Give --ema 0.")


def initial_weights(job, classes, say):
    """Returns what `initial.load` found for `--init`, or `None`.

    A run that is resumed has it in its `config.json`, and does not need the file again.
    """
    if not job.init:
        return None
    path = job.folder / files.CONFIG
    before = files.read_json(path).get("init") if path.is_file() else None
    if before and before["source"] == str(Path(job.init)):
        return before
    found = initial.load(network.initial_model(job, classes), job.init)
    for line in initial.describe(found):
        say(line)
    return found


def _frozen(job):
    """Returns the line that says what is frozen."""
    recipe = job.recipe
    epochs = f"up to epoch {recipe.freeze_epochs}" if recipe.freeze_epochs else "in all epochs"
    gates = parse_arch(job.arch)[2]
    trained = f"the {gates} layers and the classifier are" if gates else "the classifier is"
    warning = "" if job.init else " warning: without --init, frozen weights are random."
    return (
        f"--freeze {recipe.freeze}, {epochs}: frozen normalizations keep their statistics too; "
        f"{trained} trained.{warning}"
    )


def steps(job, dataset):
    """Returns the job with the steps of an epoch."""
    whole = streams.steps_per_epoch(dataset.train, job.recipe.batch_size)
    return dataclasses.replace(job, steps_per_epoch=min(job.steps_per_epoch or whole, whole))


def warn_of_few_steps(job, say):
    """Warns if the training ends before its learning rate reaches its peak, or falls."""
    recipe, count = job.recipe, job.steps_per_epoch * job.recipe.epochs
    if recipe.schedule == "warmup_cosine" and recipe.warmup_steps >= count:
        say(
            f"warning: --warmup-steps {recipe.warmup_steps}, and the training has {count} steps: "
            f"the learning rate does not reach {recipe.learning_rate}"
        )
    if recipe.schedule == "step_decay" and min(recipe.milestones, default=0) >= recipe.epochs:
        say(
            f"warning: --milestones {' '.join(map(str, recipe.milestones))}, and the training has "
            f"{recipe.epochs} epochs: the learning rate does not fall"
        )


def average(job, say=lambda line: None):
    """Returns the job with an average of the weights that fits the number of all steps.

    A recipe's average of more than a tenth of all steps would keep the first weights.
    """
    recipe, count = job.recipe, job.steps_per_epoch * job.recipe.epochs
    if recipe.ema == recipes.RECIPES[job.recipe_name].ema:
        most = max(0.0, 1 - EMA_SPANS / count)
        recipe = dataclasses.replace(recipe, ema=round(min(recipe.ema, most), 4))
        if recipe != job.recipe:
            say(f"--ema {recipe.ema}, for {count} steps")
    return dataclasses.replace(job, recipe=recipe)


def normalization(job, dataset, given, say):
    """Returns the job with the numbers of its mean and std.

    Given weights bring theirs, unless `--mean` says otherwise: a run's, or ImageNet's for a
    classifier of 1,000 classes.
    """
    recipe, named = job.recipe, recipes.RECIPES[job.recipe_name]
    mean, std = recipe.mean, recipe.std
    if given and (mean, std) == (named.mean, named.std) and given["mean"]:
        mean, std = tuple(given["mean"]), tuple(given["std"])
        say(f"mean {mean}, std {std} of {given['source']}")
    if mean == recipes.IMAGENET:
        mean, std = recipes.IMAGENET_MEAN, recipes.IMAGENET_STD
    if mean == recipes.AUTO:
        mean, std = streams.mean_and_std(dataset.train)
        say(f"mean {mean}, std {std} of the training images")
    return dataclasses.replace(job, recipe=dataclasses.replace(recipe, mean=mean, std=std))
