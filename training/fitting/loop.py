"""The epochs of a training: its streams, what watches it, and where it goes on."""

import itertools

import keras
import tensorflow as tf

from training import recipes
from training.data import augment, streams
from training.fitting import callbacks, checkpoints, schedules
from training.runs import files

GATE_IMAGES = 64


def fit(job, models, dataset, steps, position, folder, placement, say):
    """Trains what is left from a position on.

    Args:
        job: A `Job`.
        models: Dictionary from each size of the recipe's images to the network for it.
        dataset: A `Dataset`.
        steps: Integer, the steps of an epoch.
        position: A `Position`, where the training stands.
        folder: Path of the run folder.
        placement: A `devices.Placement`.
        say: Function of a line.
    """
    recipe = job.recipe
    model = models[recipes.IMAGE_SIZE]
    epochs = range(position.epochs, recipe.epochs)
    history, writers = None, []
    if placement.writes:
        rows = files.read_history(folder / "history.csv")
        history = callbacks.History(
            folder,
            [row for row in rows if row["epoch"] <= position.epochs],
            images_per_epoch=steps * recipe.batch_size,
            schedule=schedules.from_recipe(recipe, steps),
            seconds=position.seconds,
        )
        writers = [
            callbacks.TimeEstimate(steps, [recipe.image_size(e) for e in epochs], say),
            history,
            *tensorboard(job, model, dataset, folder / "tensorboard"),
        ]

    with checkpoints.termination() as ends:
        watchers = [
            callbacks.StopOnNaN(say),
            *writers,
            checkpoints.Checkpoint(
                folder,
                model,
                history,
                position,
                steps,
                every=job.checkpoint_every,
                choose_best=dataset.validation is not None,
                ends=ends,
            ),
        ]
        for first_epoch, last_epoch, first_step in _spans(position, recipe):
            size = recipe.image_size(first_epoch)
            models[size].fit(
                training_batches(job, dataset, steps, first_epoch, first_step, placement.shard),
                validation_data=one_hot(held_out(job, dataset, size, placement), dataset),
                initial_epoch=first_epoch,
                epochs=last_epoch,
                steps_per_epoch=steps - first_step,
                shuffle=False,  # the stream is shuffled already
                verbose=0 if not placement.writes else 2 if job.quiet else 1,
                callbacks=watchers,
            )


def _spans(position, recipe):
    """Returns (first epoch, last epoch, first step) of each call of Keras' `fit`.

    Keras begins an epoch at its first step: the rest of a begun one is a call of its own. So are
    the epochs of another size of the images.
    """
    spans = [(position.epochs, position.epochs + 1, position.steps)] if position.steps else []
    whole = range(position.epochs + len(spans), recipe.epochs)
    for _, group in itertools.groupby(whole, recipe.image_size):
        epochs = list(group)
        spans.append((epochs[0], epochs[-1] + 1, 0))
    return spans


def training_batches(job, dataset, steps, first_epoch, first_step, shard=(0, 1)):
    """Returns the endless stream of augmented batches, labels one-hot, from a step on."""
    recipe = job.recipe
    stream = streams.training_stream(
        dataset.train,
        recipe.batch_size,
        recipe.mean,
        recipe.std,
        augment=augment.compose(recipe.augment),
        size=recipe.image_size(first_epoch),
        seed=job.seed,
        first_epoch=first_epoch,
        first_step=first_step,
        steps=steps,
        shard=shard,
    )
    return one_hot(stream, dataset)


def held_out(job, dataset, size=None, placement=None):
    """Returns the stream of the validation part, or of the test set if there is none.

    Where processes share it, it is this one's part; the few images are left out by which the
    number of devices does not divide.
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


def tensorboard(job, model, dataset, folder):
    """Returns the callbacks that write TensorBoard's logs."""
    logs = keras.callbacks.TensorBoard(folder, write_graph=False)
    if keras.backend.backend() != "tensorflow":
        return [logs]
    grid = streams.preview(dataset.train, augment.compose(job.recipe.augment), job.seed)
    images, _ = next(iter(held_out(job, dataset)))
    return [
        callbacks.TensorBoardExtras(folder, model, grid, images[:GATE_IMAGES]),
        logs,
    ]
