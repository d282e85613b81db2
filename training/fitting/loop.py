"""The epochs of a training: its streams, its callbacks, and the calls of Keras' `fit`."""

import contextlib
import itertools

import keras
import tensorflow as tf

from keras_nam.gates import gates_of
from training.data import augment, streams
from training.fitting import (
    callbacks,
    checkpoints,
    devices,
    initial,
    network,
    progress,
    schedules,
)
from training.gating import tensorboard as gate_board
from training.runs import board, files

GATE_IMAGES = 64


def fit(job, models, dataset, position, placement, say, more=()):
    """Trains the remaining epochs.

    Args:
        job: A `Job` whose precision and steps are resolved.
        models: Dictionary from each size of the recipe's images to the network for it.
        dataset: A `Dataset`.
        position: `Position` to start from.
        placement: A `devices.Placement`.
        say: Callable that receives progress messages.
        more: Further callbacks for the process that writes.
    """
    recipe, folder, steps = job.recipe, job.folder, job.steps_per_epoch
    model = models[None]
    history, writers, lines = None, [], contextlib.nullcontext()
    if placement.writes:
        rows = files.read_history(folder / "history.csv")
        history = callbacks.History(
            folder,
            [row for row in rows if row["epoch"] <= position.epochs],
            recipe,
            images_per_epoch=steps * recipe.batch_size,
            schedule=schedules.from_recipe(recipe, steps),
            seconds=position.seconds,
        )
        sizes = [recipe.image_size(e) or job.image_size[0] for e in range(recipe.epochs)]
        lines = progress.EpochLines(steps, sizes, recipe.batch_size, job.quiet)
        logs = tensorboard(job, model, dataset, history)
        writers = [callbacks.EvaluateAverage(), history, lines, *logs, *more]

    with lines, checkpoints.termination() as ends:
        checkpoint = checkpoints.Checkpoint(
            job, model, history, position, choose_best=dataset.validation is not None, ends=ends
        )
        for first_epoch, last_epoch, first_step in _spans(position, recipe):
            if history and recipe.is_done(history.rows):
                break
            size = recipe.image_size(first_epoch)
            if not recipe.is_frozen(first_epoch) and initial.is_frozen(model):
                with placement.scope():
                    network.thaw(models, job)
            with placement.scope():
                devices.fit_steps_per_call(models[size], steps, steps - first_step)
            # Keras would put the average into the weights at the end of each call.
            model.optimizer.finalize_variable_values = lambda variables: None
            models[size].fit(
                training_batches(job, dataset, first_epoch, first_step, placement.shard),
                validation_data=one_hot(held_out(job, dataset, size, placement), dataset),
                initial_epoch=first_epoch,
                epochs=last_epoch,
                steps_per_epoch=steps - first_step,
                shuffle=False,  # the stream is shuffled already
                verbose=0,
                callbacks=[callbacks.StopOnNaN(say), *writers, checkpoint],
            )


def _spans(position, recipe):
    """Returns (first epoch, last epoch, first step) of each call of Keras' `fit`.

    Keras begins an epoch at its first step, so the rest of a begun epoch is a separate call. So are
    the epochs of another image size, and the epochs after the first layers were frozen.
    """
    spans = [(position.epochs, position.epochs + 1, position.steps)] if position.steps else []
    whole = range(position.epochs + len(spans), recipe.epochs)
    for _, group in itertools.groupby(
        whole, lambda epoch: (recipe.image_size(epoch), recipe.is_frozen(epoch))
    ):
        epochs = list(group)
        spans.append((epochs[0], epochs[-1] + 1, 0))
    return spans


def training_batches(job, dataset, first_epoch=0, first_step=0, shard=(0, 1)):
    """Returns the endless stream of augmented batches, labels one-hot, from a step on."""
    recipe = job.recipe
    return streams.training_stream(
        dataset.train,
        recipe.batch_size,
        recipe.mean,
        recipe.std,
        augment=augment.compose(recipe.augment),
        size=recipe.image_size(first_epoch),
        seed=job.seed,
        first_epoch=first_epoch,
        first_step=first_step,
        steps=job.steps_per_epoch,
        shard=shard,
        classes=len(dataset.class_names),
    )


def held_out(job, dataset, size=None, placement=None):
    """Returns the stream of the validation part, or of the test set if there is none.

    If processes share it, returns this process' part. Some of the last images are left out then, so
    that the number of devices divides the rest.
    """
    recipe, split, batch_size = job.recipe, dataset.held_out, job.recipe.batch_size
    process, processes = placement.shard if placement else (0, 1)
    if processes > 1:
        whole = len(split) // placement.devices * placement.devices
        split, batch_size = split.take(slice(process, whole, processes)), batch_size // processes
    return streams.evaluation_stream(split, batch_size, recipe.mean, recipe.std, size)


def one_hot(stream, dataset):
    """Returns a stream of images and labels with the labels one-hot."""
    classes = len(dataset.class_names)
    return stream.map(lambda images, labels: (images, tf.one_hot(labels, classes)))


def tensorboard(job, model, dataset, history):
    """Returns the callbacks that write TensorBoard's logs."""
    preview = streams.preview(dataset.train, augment.compose(job.recipe.augment), job.seed)
    logs = [board.Board(job.folder, history, preview)]
    if keras.backend.backend() == "tensorflow" and gates_of(model):
        images, _ = next(iter(held_out(job, dataset)))
        folder = job.folder / board.FOLDER / board.TRAIN
        logs.append(gate_board.Gates(folder, model, images[:GATE_IMAGES]))
    return logs
