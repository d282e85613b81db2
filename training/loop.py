"""The epochs of a training: its streams, what watches it, and where it goes on."""

import itertools

import keras
import tensorflow as tf

from training import augment, callbacks, checkpoints, data, recipes, runs

GATE_IMAGES = 64


def fit(job, models, dataset, steps, position, folder, say):
    """Trains what is left from a position on.

    Args:
        job: A `Job`.
        models: Dictionary from each size of the recipe's images to the network for it.
        dataset: A `Dataset`.
        steps: Integer, the steps of an epoch.
        position: A `Position`, where the training stands.
        folder: Path of the run folder.
        say: Function of a line.

    Returns:
        The history's rows.
    """
    recipe = job.recipe
    model = models[recipes.IMAGE_SIZE]
    history = runs.read_history(folder / "history.csv")
    epochs = range(position.epochs, recipe.epochs)
    rows = [row for row in history if row["epoch"] <= position.epochs]
    with checkpoints.termination() as terminated:
        watchers = [
            callbacks.StopOnNaN(),
            callbacks.TimeEstimate(steps, [recipe.image_size(e) for e in epochs], say),
            callbacks.History(folder, rows, steps * recipe.batch_size, position.seconds),
            checkpoints.Checkpoint(
                folder,
                model,
                rows,
                position,
                steps,
                every=job.checkpoint_every,
                choose_best=dataset.validation is not None,
                terminated=terminated,
            ),
            *tensorboard(job, model, dataset, folder / "tensorboard"),
        ]
        for first_epoch, last_epoch, first_step in _spans(position, recipe):
            size = recipe.image_size(first_epoch)
            models[size].fit(
                training_batches(job, dataset, steps, first_epoch, first_step),
                validation_data=one_hot(held_out(job, dataset, size), dataset),
                initial_epoch=first_epoch,
                epochs=last_epoch,
                steps_per_epoch=steps - first_step,
                shuffle=False,  # the stream is shuffled already
                verbose=2 if job.quiet else 1,
                callbacks=watchers,
            )
    return rows


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


def training_batches(job, dataset, steps, first_epoch, first_step):
    """Returns the endless stream of augmented batches, labels one-hot, from a step on."""
    recipe = job.recipe
    stream = data.training_stream(
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
    )
    return one_hot(stream, dataset)


def held_out(job, dataset, size=None):
    """Returns the stream of the validation part, or of the test set if there is none."""
    recipe = job.recipe
    return data.evaluation_stream(
        dataset.held_out, recipe.batch_size, recipe.mean, recipe.std, size
    )


def one_hot(stream, dataset):
    """Returns a stream of images and labels with the labels one-hot."""
    classes = len(dataset.class_names)
    return stream.map(lambda images, labels: (images, tf.one_hot(labels, classes)))


def tensorboard(job, model, dataset, folder):
    """Returns the callbacks that write TensorBoard's logs."""
    grid = data.preview(dataset.train, augment.compose(job.recipe.augment), job.seed)
    images, _ = next(iter(held_out(job, dataset)))
    return [
        callbacks.TensorBoardExtras(folder, model, grid, images[:GATE_IMAGES]),
        keras.callbacks.TensorBoard(folder, write_graph=False),
    ]
