"""What happens around the epochs: history, checkpoints, TensorBoard, and the checks."""

import shutil
import time
import zipfile

import keras
import numpy as np
import tensorflow as tf

from keras_nam.attention.nam import NormalizationGate
from training import plots, runs
from training.cli import FailedError

EPOCH_FILE = "training.json"


class History(keras.callbacks.Callback):
    """Adds a row an epoch to `history.csv`, and draws `curves.png`.

    Args:
        folder: Path of the run folder.
        rows: The rows of the epochs that were done before, kept.
        images_per_epoch: Integer, for the speed.
    """

    def __init__(self, folder, rows, images_per_epoch):
        super().__init__()
        self.folder = folder
        self.rows = rows
        self.images_per_epoch = images_per_epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.started = self.trained = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = float(np.asarray(self.model.optimizer.learning_rate))
        logs["images_per_second"] = self.images_per_epoch / (self.trained - self.started)
        logs["seconds"] = time.perf_counter() - self.started
        values = {key: float(f"{logs[key]:.7g}") for key in runs.HISTORY_COLUMNS if key in logs}
        self.rows.append({"epoch": epoch + 1, **values})
        runs.write_history(self.folder / "history.csv", self.rows)
        runs.write_atomically(
            self.folder / "curves.png", lambda path: plots.curves(self.rows, self.folder.name, path)
        )


class Checkpoint(keras.callbacks.Callback):
    """Saves model and optimizer after each epoch: `last.keras`, `previous.keras`, `best.keras`.

    The previous checkpoint stays until the new one is whole. The best one is that of the highest
    held-out top-1; without a validation split it is the last, since choosing by the test set
    would be tuning on it.

    Args:
        folder: Path of the run folder.
        rows: The history's rows, this epoch's included once it has ended.
        choose_best: Whether `val_top1` is that of a validation split.
    """

    def __init__(self, folder, rows, choose_best):
        super().__init__()
        self.folder = folder
        self.rows = rows
        self.choose_best = choose_best

    def on_epoch_end(self, epoch, logs=None):
        last = self.folder / "last.keras"
        if last.exists():
            runs.write_atomically(
                self.folder / "previous.keras", lambda path: shutil.copyfile(last, path)
            )
        runs.write_atomically(last, lambda path: self._save(path, epoch + 1))
        tops = [row["val_top1"] for row in self.rows]
        if not self.choose_best or tops[-1] >= max(tops):
            runs.write_atomically(
                self.folder / "best.keras", lambda path: shutil.copyfile(last, path)
            )

    def _save(self, path, epochs_done):
        self.model.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(EPOCH_FILE, str(epochs_done))


def load_newest_checkpoint(folder):
    """Returns the model, with its optimizer, of the newest whole checkpoint, and its epoch.

    Returns:
        A tuple (model, epochs done, warnings); (`None`, 0, warnings) if there is none.
    """
    warnings = []
    for name in ("last.keras", "previous.keras"):
        path = folder / name
        if not path.exists():
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("its checksums do not match")
                epochs_done = int(archive.read(EPOCH_FILE))
            return keras.saving.load_model(path), epochs_done, warnings
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            warnings.append(f"{path} is damaged ({error}); going back to the one before.")
    return None, 0, warnings


class StopOnNaN(keras.callbacks.Callback):
    """Stops the training with a message as soon as the loss is not finite."""

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            step = int(np.asarray(self.model.optimizer.iterations))
            rate = float(np.asarray(self.model.optimizer.learning_rate))
            raise FailedError(
                f"The loss became {loss} at step {step} (learning rate {rate:.4g}). "
                "The checkpoint of the last whole epoch is kept; try a lower --learning-rate."
            )


class TimeEstimate(keras.callbacks.Callback):
    """Says after the first steps how long an epoch takes, measured, and what would be quicker.

    Args:
        steps: Integer, the steps of an epoch.
        epochs: Integer, those that are left.
        say: Function of a line.
    """

    FIRST, LAST = 3, 8  # the first steps compile
    LONG = 3600  # seconds

    def __init__(self, steps, epochs, say):
        super().__init__()
        self.steps = steps
        self.epochs = epochs
        self.say = say
        self.seen = 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.FIRST:
            self.started = time.perf_counter()
        elif self.seen == self.LAST:
            step = (time.perf_counter() - self.started) / (self.LAST - self.FIRST)
            total = step * self.steps * self.epochs
            self.say(
                f"\nAn epoch takes about {duration(step * self.steps)}, "
                f"{self.epochs} of them {duration(total)} (measured on {self.LAST - self.FIRST} "
                "steps)."
            )
            if total > self.LONG:
                self.say("Smaller: --arch r18w16_nam --recipe fast, or --steps-per-epoch 5.")


def duration(seconds):
    """Returns a number of seconds as a person says it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class TensorBoardExtras(keras.callbacks.Callback):
    """Writes a grid of augmented images, and histograms of the gates' weights.

    Args:
        folder: Path of the TensorBoard logs.
        images: Augmented images of a batch, [N, H, W, C], 0–1.
    """

    def __init__(self, folder, images):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder / "train"))
        self.images = images

    def on_train_begin(self, logs=None):
        with self.writer.as_default():
            tf.summary.image("augmented images", self.images, step=0, max_outputs=1)

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default():
            for gate in gates(self.model):
                tf.summary.histogram(f"gate_weights/{gate.path}", gate.gate_weights, step=epoch)
        self.writer.flush()


def gates(model):
    """Returns the normalization gates of a model, nested ones included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, NormalizationGate)]
