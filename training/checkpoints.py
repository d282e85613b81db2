"""Checkpoints: the model, its optimizer, and where in the training they stand."""

import contextlib
import dataclasses
import json
import shutil
import signal
import threading
import time
import zipfile

import keras
import numpy as np

from training import runs
from training.cli import Terminated

POSITION_FILE = "training.json"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a training stands: whole epochs, and steps into the one that is begun.

    `seconds` and `metrics` (the sums and counts of the metrics) are those of that epoch so far.
    """

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    metrics: tuple = ()


class Checkpoint(keras.callbacks.Callback):
    """Saves model and optimizer: `last.keras`, `previous.keras`, `best.keras`.

    They are saved after each epoch, every so many steps if that is asked for, and before the
    training ends on a signal. The previous checkpoint stays until the new one is whole. The best
    one is that of the highest held-out top-1; without a validation split it is the last, since
    choosing by the test set would be tuning on it.

    Args:
        folder: Path of the run folder.
        network: The model that is saved: that of the full size, whichever is trained.
        rows: The history's rows, this epoch's included once it has ended.
        position: `Position` that the training starts from.
        steps: Integer, the steps of an epoch.
        every: Integer, steps between two checkpoints; `None` for those of the epochs alone.
        choose_best: Whether `val_top1` is that of a validation split.
        terminated: `threading.Event`, set when the training is to end.
    """

    def __init__(self, folder, network, rows, position, steps, every, choose_best, terminated):
        super().__init__()
        self.folder = folder
        self.network = network
        self.rows = rows
        self.position = position
        self.steps = steps
        self.every = every
        self.choose_best = choose_best
        self.terminated = terminated

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > self.position.epochs:
            self.position = Position(epoch)
        self.first_step = self.position.steps
        self.started = time.perf_counter() - self.position.seconds
        self.metrics_before = self.position.metrics

    def on_train_batch_end(self, batch, logs=None):
        self._add_metrics_before()
        steps = self.first_step + batch + 1
        due = self.every and steps - self.position.steps >= self.every
        if steps < self.steps and (due or self.terminated.is_set()):
            self.position = Position(
                self.position.epochs,
                steps,
                time.perf_counter() - self.started,
                tuple(float(np.asarray(v)) for v in self.model.metrics_variables),
            )
            self._save()
            self._end_if_terminated()

    def _add_metrics_before(self):
        """Goes on with the sums of the steps before the checkpoint, which Keras set to 0."""
        if self.metrics_before:
            variables = self.model.metrics_variables  # Keras builds them in the first step
            for variable, value in zip(variables, self.metrics_before, strict=True):
                variable.assign(variable + value)
            self.metrics_before = ()

    def on_epoch_end(self, epoch, logs=None):
        self.position = Position(epoch + 1)
        self._save()
        tops = [row["val_top1"] for row in self.rows]
        if not self.choose_best or tops[-1] >= max(tops):
            self._copy("last.keras", "best.keras")
        self._end_if_terminated()

    def _save(self):
        if (self.folder / "last.keras").exists():
            self._copy("last.keras", "previous.keras")
        runs.write_atomically(self.folder / "last.keras", self._write)

    def _write(self, path):
        self.network.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(POSITION_FILE, json.dumps(dataclasses.asdict(self.position)))

    def _copy(self, source, target):
        runs.write_atomically(
            self.folder / target, lambda path: shutil.copyfile(self.folder / source, path)
        )

    def _end_if_terminated(self):
        if self.terminated.is_set():
            raise Terminated(
                f"{self.folder} keeps epoch {self.position.epochs}, step {self.position.steps}: "
                "--resume continues there."
            )


def load_newest(folder):
    """Returns the model, with its optimizer, of the newest whole checkpoint, and its position.

    Returns:
        A tuple (model, `Position`, warnings); (`None`, the start, warnings) if there is none.
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
                position = Position(**json.loads(archive.read(POSITION_FILE)))
            return keras.saving.load_model(path), position, warnings
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            warnings.append(f"{path} is damaged ({error}); going back to the one before.")
    return None, Position(), warnings


@contextlib.contextmanager
def termination():
    """Holds SIGTERM back, which a preempted machine sends: yields an event that it sets."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
