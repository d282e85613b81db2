"""Callbacks around the epochs: history, and checks."""

import contextlib
import time

import keras
import numpy as np

from training.fitting import checkpoints
from training.runs import files, plots


class History(keras.callbacks.Callback):
    """Adds a row an epoch to `history.csv`, and draws `curves.png`.

    Args:
        folder: Path of the run folder.
        rows: The rows of the epochs before.
        recipe: A `Recipe`, whose patience may end the training.
        images_per_epoch: Integer, for the speed.
        schedule: The learning rate, a function of the step.
        seconds: Float, the duration so far of the first epoch, if it is resumed.
    """

    def __init__(self, folder, rows, recipe, images_per_epoch, schedule, seconds=0.0):
        super().__init__()
        self.recipe = recipe
        self.seconds_before = seconds
        self.folder = folder
        self.rows = list(rows)
        self.images_per_epoch = images_per_epoch
        self.schedule = schedule

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter() - self.seconds_before
        self.seconds_before = 0.0

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_test_end(self, logs=None):
        self.evaluated = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the row of an epoch, unless it is written already; adds its figures to `logs`."""
        if self.rows and self.rows[-1]["epoch"] == epoch + 1:
            return
        # A number: if processes share the variables, one alone cannot compute with them.
        step = int(np.asarray(self.model.optimizer.iterations))
        logs["learning_rate"] = float(np.asarray(self.schedule(step)))
        logs["images_per_second"] = self.images_per_epoch / (self.trained - self.started)
        logs["seconds"] = self.evaluated - self.started
        values = {key: float(f"{logs[key]:.7g}") for key in files.HISTORY_COLUMNS if key in logs}
        self.rows.append({"epoch": epoch + 1, **values})
        if self.recipe.is_done(self.rows):
            self.model.stop_training = True
        files.write_history(self.folder / "history.csv", self.rows)
        files.write_atomically(
            self.folder / "curves.png",
            lambda path: plots.curves(self.rows, self.recipe, self.folder.name, path),
        )


class EvaluateAverage(keras.callbacks.Callback):
    """Evaluates the optimizer's average of the weights, if it has one."""

    def on_test_begin(self, logs=None):
        self.average = contextlib.ExitStack()
        self.average.enter_context(checkpoints.averaged(self.model))

    def on_test_end(self, logs=None):
        self.average.close()


class StopOnNaN(keras.callbacks.Callback):
    """Stops the training if the loss, or a weight at an epoch's end, is not finite.

    An evaluation that is not finite is a warning.

    Args:
        say: Callable that receives the warnings.
    """

    def __init__(self, say):
        super().__init__()
        self.say = say

    def on_train_batch_end(self, batch, logs=None):
        checkpoints.check_loss(self.model, logs)

    def on_epoch_end(self, epoch, logs=None):
        checkpoints.check_weights(self.model)
        held_out = {key: value for key, value in (logs or {}).items() if key.startswith("val_")}
        if not np.isfinite([*held_out.values()]).all():
            self.say(
                f"\nwarning: the evaluation after epoch {epoch + 1} is not finite (val_loss "
                f"{held_out['val_loss']}), though the weights are: the training continues. Early "
                "on, the statistics of the normalizations may not have settled; float16 overflows "
                "above 65504. If it persists, use --precision float32."
            )
