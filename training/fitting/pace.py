"""The time that a training takes, measured on some of its steps before it begins."""

import dataclasses
import time
from typing import NamedTuple

import keras

from training.cli import InputError
from training.fitting import loop, network
from training.runs import files

WARM_UP = 2  # steps after the first one, which compiles
MEASURED = 8  # steps
MOST = 10_000  # epochs


class Pace(NamedTuple):
    """The speed at one image size."""

    start: float  # seconds, to compile the first steps
    epoch: float  # seconds, with its evaluation


def fit_epochs(job, dataset, placement, say):
    """Returns the job with as many epochs as fit into `job.minutes`; of a begun run, its own.

    Raises:
        InputError: If not even one fits, or several devices share the training.
    """
    config = job.folder / files.CONFIG
    if config.is_file():
        epochs = files.read_json(config)["recipe_settings"]["epochs"]
    else:
        if placement.devices > 1:
            raise InputError("--minutes: expected one device. Give --epochs.")
        recipe = job.recipe
        every_size = max(recipe.epochs, len(recipe.progressive_sizes))
        recipe = dataclasses.replace(recipe, epochs=every_size)
        pace = measure(dataclasses.replace(job, recipe=recipe), dataset, placement)
        epochs = _most_epochs(job, pace)
        say(f"--epochs {epochs}, which take about {minutes(job, pace, epochs):.1f} minutes")
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, epochs=epochs))


def measure(job, dataset, placement):
    """Returns size of the images -> `Pace`, for the sizes of the job's epochs.

    The steps train another network, which is thrown away.
    """
    with placement.scope():
        models = network.at_sizes(network.compiled_model(job, len(dataset.class_names)), job)
    found = {}
    for epoch in range(job.recipe.epochs):
        size = job.recipe.image_size(epoch)
        if size in found:
            continue
        batches = iter(loop.training_batches(job, dataset, epoch, 0, placement.shard))
        start, step = _seconds(lambda b=batches, s=size: models[s].train_on_batch(*next(b)))
        held_out = loop.one_hot(loop.held_out(job, dataset, size, placement), dataset)
        batches = iter(held_out.repeat())
        test_start, test = _seconds(lambda b=batches, s=size: models[s].test_on_batch(*next(b)))
        evaluations = len(dataset.held_out) / job.recipe.batch_size
        found[size] = Pace(start + test_start, step * job.steps_per_epoch + test * evaluations)
    keras.utils.set_random_seed(job.seed)  # as if nothing had been measured
    return found


def describe(job, dataset, placement, say):
    """Says how long a job takes on this machine."""
    pace = measure(job, dataset, placement)
    epochs = job.recipe.epochs
    say(f"{epochs} epochs take about {minutes(job, pace, epochs):.1f} minutes on this machine.")
    for size, (_, seconds) in pace.items():
        pixels = f" with images of {size} pixels" if size else ""
        say(f"An epoch{pixels} takes about {seconds:.0f} s, its evaluation included.")


def _seconds(step):
    """Returns (seconds to compile, in the first step; seconds of a later step)."""
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    for _ in range(WARM_UP):
        step()
    started = time.perf_counter()
    for _ in range(MEASURED):
        step()
    mean = (time.perf_counter() - started) / MEASURED
    return first - mean, mean


def minutes(job, pace, epochs):
    """Returns how long so many epochs take."""
    recipe = dataclasses.replace(job.recipe, epochs=epochs)
    sizes = [recipe.image_size(epoch) for epoch in range(epochs)]
    return sum([pace[size].epoch for size in sizes] + [pace[size].start for size in {*sizes}]) / 60


def _most_epochs(job, pace):
    if minutes(job, pace, 1) > job.minutes:
        raise InputError(
            f"--minutes {job.minutes:g}: one epoch takes {minutes(job, pace, 1):.1f} minutes. "
            "Expected at least that."
        )
    epochs = 1
    while epochs < MOST and minutes(job, pace, epochs + 1) <= job.minutes:
        epochs += 1
    return epochs
