"""Callbacks around the epochs: history, TensorBoard, and checks."""

import contextlib
import time

import keras
import numpy as np
import tensorflow as tf

from training.fitting import checkpoints
from training.gating import values as gate_values
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


class TensorBoardExtras(keras.callbacks.Callback):
    """Writes a grid of augmented images, and the gates' weights and values after each epoch.

    The statistics of a gate leave out images for which it has values that are not finite.

    Args:
        folder: Path of the TensorBoard logs.
        network: The model of the full size, even if another size is trained.
        images: Augmented images of a batch, [N, H, W, C], 0–1.
        gate_images: Normalized images, [n, H, W, C], for which the gates' values are shown, or
            `None`. The inputs of all gates for them are in memory at once.
    """

    HISTOGRAM_IMAGES = 8  # TensorBoard's histogram is slower than the network

    def __init__(self, folder, network, images, gate_images=None):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder / "train"))
        self.network = network
        self.images = images
        self.gate_images = gate_images

    def on_train_begin(self, logs=None):
        with self.writer.as_default():
            tf.summary.image("augmented images", self.images, step=0, max_outputs=1)
        self.gates = gate_values.named_gates(self.network)
        if self.gates and self.gate_images is not None:
            self.gate_values = tf.function(gate_values.value_function(self.network))

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(step=epoch):
            for name, gate in self.gates.items():
                weights = np.asarray(gate.gate_weights)
                tf.summary.histogram(f"gate_weights/{name}", weights[np.isfinite(weights)])
            if self.gates and self.gate_images is not None:
                self._write_gate_values()
        self.writer.flush()

    def _write_gate_values(self):
        values = self.gate_values(self.gate_images)
        for (name, gate), value in zip(self.gates.items(), values, strict=True):
            value = value[np.isfinite(value).all((1, 2, 3))]
            if not len(value):
                continue
            numbers = gate_values.distribution(gate, value).numbers
            tf.summary.histogram(f"gate_values/{name}", value[: self.HISTOGRAM_IMAGES])
            tf.summary.scalar(f"gate_mean/{name}", numbers["mean"])
            # The part that constants for each channel could replace, and the part by image.
            tf.summary.scalar(f"gate_std_between/{name}", numbers["std_between_units"])
            tf.summary.scalar(f"gate_std_within/{name}", numbers["std_within_units"])
