"""The time that a training takes, measured on some of its steps before it begins."""

import dataclasses
import time
from itertools import product
from typing import NamedTuple

import keras

from training.cli import InputError
from training.fitting import initial, loop, network
from training.runs import files

WARM_UP = 2  # steps after the first one, which compiles
MEASURED = 8  # steps
MOST = 10_000  # epochs


class Pace(NamedTuple):
    """The speed of one kind of epoch."""

    start: float  # seconds, to compile the first steps
    epoch: float  # seconds, with its evaluation


class Kind(NamedTuple):
    """What the time of an epoch depends on."""

    is_frozen: bool  # whether some layers are
    size: int | None  # of the images; `None` for the network's


def kinds_of(recipe, epochs):
    """Returns the `Kind` of each epoch of a training of so many."""
    recipe = dataclasses.replace(recipe, epochs=epochs)
    return [Kind(recipe.is_frozen(e), recipe.image_size(e)) for e in range(epochs)]


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
        is_frozen = {recipe.is_frozen(0), recipe.is_frozen(recipe.freeze_epochs)}
        sizes = recipe.progressive_sizes or (None,)
        pace = measure(job, dataset, placement, map(Kind._make, product(is_frozen, sizes)))
        epochs = _most_epochs(job, pace)
        say(f"--epochs {epochs}, in about {minutes(job, pace, epochs):.1f} minutes")
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, epochs=epochs))


def measure(job, dataset, placement, kinds):
    """Returns each `Kind` -> its `Pace`.

    The steps train another network, which is thrown away.
    """
    with placement.scope():
        models = network.at_sizes(network.compiled_model(job, len(dataset.class_names)), job)
    found = {}
    for kind in sorted({*kinds}, reverse=True):  # a frozen network can be thawed
        if not kind.is_frozen and initial.is_frozen(models[None]):
            with placement.scope():
                network.thaw(models, job)
        size, model = kind.size, models[kind.size]
        recipe = dataclasses.replace(job.recipe, progressive_sizes=(size,) if size else ())
        sized = dataclasses.replace(job, recipe=recipe)
        batches = iter(loop.training_batches(sized, dataset, shard=placement.shard))
        start, step = _seconds(lambda b=batches, m=model: m.train_on_batch(*next(b)))
        held_out = loop.one_hot(loop.held_out(job, dataset, size, placement), dataset)
        batches = iter(held_out.repeat())
        test_start, test = _seconds(lambda b=batches, m=model: m.test_on_batch(*next(b)))
        evaluations = len(dataset.held_out) / job.recipe.batch_size
        found[kind] = Pace(start + test_start, step * job.steps_per_epoch + test * evaluations)
    keras.utils.set_random_seed(job.seed)  # as if nothing had been measured
    return found


def describe(job, dataset, placement, say):
    """Says how long a job takes on this machine."""
    epochs = job.recipe.epochs
    pace = measure(job, dataset, placement, kinds_of(job.recipe, epochs))
    say(f"Epochs: {epochs}, in about {minutes(job, pace, epochs):.1f} minutes on this machine.")
    for (is_frozen, size), (_, seconds) in pace.items():
        what = [f"images of {size} pixels"] * bool(size) + ["frozen layers"] * is_frozen
        kind = f" with {' and '.join(what)}" if what else ""
        say(f"An epoch{kind} takes about {seconds:.0f} s, its evaluation included.")


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
    kinds = kinds_of(job.recipe, epochs)
    return sum([pace[kind].epoch for kind in kinds] + [pace[kind].start for kind in {*kinds}]) / 60


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
