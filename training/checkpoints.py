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

from training import multihost, runs
from training.cli import FailedError, InputError, Terminated

POSITION_FILE = "training.json"
DIVERGED = (
    "--resume tries again from the checkpoint before, if there is one. If it comes back: a lower "
    "--learning-rate, in another --run-dir."
)


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
        ends: Function of the steps so far, whether the training is to end now; see `termination`.
        writes: Whether this process writes; it keeps in step with the one that does, if not.
    """

    def __init__(
        self, folder, network, rows, position, steps, every, choose_best, ends, writes=True
    ):
        super().__init__()
        self.folder = folder
        self.network = network
        self.rows = rows
        self.position = position
        self.steps = steps
        self.every = every
        self.choose_best = choose_best
        self.ends = ends
        self.writes = writes

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
        ends = self.ends(self.position.epochs * self.steps + steps)
        if steps < self.steps and (due or ends):
            self.position = Position(
                self.position.epochs,
                steps,
                time.perf_counter() - self.started,
                tuple(float(np.asarray(v)) for v in self.model.metrics_variables),
            )
            self._save()
            self._end(ends)

    def _add_metrics_before(self):
        """Goes on with the sums of the steps before the checkpoint, which Keras set to 0."""
        if self.metrics_before:
            variables = self.model.metrics_variables  # Keras builds them in the first step
            for variable, value in zip(variables, self.metrics_before, strict=True):
                variable.assign(np.asarray(variable) + value)
            self.metrics_before = ()

    def on_epoch_end(self, epoch, logs=None):
        self.position = Position(epoch + 1)
        self._save(epoch_ended=True)
        self._end(self.ends((epoch + 1) * self.steps))

    def _save(self, epoch_ended=False):
        check_finite(self.model)
        if not self.writes:
            return
        last = self.folder / "last.keras"
        if last.exists():
            self._copy(last, "previous.keras")

        def write(path):
            self._write(path)
            # Before the epoch counts as done: one that is killed here is trained again.
            if epoch_ended and self._is_best():
                self._copy(path, "best.keras")

        runs.write_atomically(last, write)

    def _is_best(self):
        tops = [row["val_top1"] for row in self.rows]
        return not self.choose_best or tops[-1] >= max(tops)

    def _write(self, path):
        _ = self.model  # on JAX a callback's look at the model brings its variables up to date
        with multihost.own_variables():
            self.network.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(POSITION_FILE, json.dumps(dataclasses.asdict(self.position)))

    def _copy(self, source, target):
        runs.write_atomically(self.folder / target, lambda path: shutil.copyfile(source, path))

    def _end(self, ends):
        if ends:
            raise Terminated(
                f"{self.folder} keeps epoch {self.position.epochs}, step {self.position.steps}: "
                "--resume continues there."
            )


def check_finite(model):
    """Raises a FailedError if some weights of a model are NaN or infinite."""
    if not all(np.isfinite(np.asarray(variable)).all() for variable in model.variables):
        step = int(np.asarray(model.optimizer.iterations))
        raise FailedError(f"Some weights are not finite after step {step}. {DIVERGED}")


def newest_position(folder):
    """Returns the position of `last.keras`, a dictionary, or `None` if it has none."""
    try:
        with zipfile.ZipFile(folder / "last.keras") as archive:
            return json.loads(archive.read(POSITION_FILE))
    except Exception:  # of a damaged archive; zipfile raises many kinds
        return None


def load_newest(folder):
    """Returns the model, with its optimizer, of the newest whole checkpoint, and its position.

    Returns:
        A tuple (model, `Position`, warnings); (`None`, the start, warnings) if there is none.

    Raises:
        InputError: If none can be loaded though one is undamaged: to begin anew would destroy it.
    """
    warnings = []
    undamaged = None
    for name in ("last.keras", "previous.keras", "best.keras"):
        path = folder / name
        if not path.exists():
            continue
        try:
            position = _checked_position(path)
            undamaged = path
            model = keras.saving.load_model(path)
        except Exception as error:  # zipfile and Keras raise many kinds
            warnings.append(f"{path} is damaged ({str(error) or type(error).__name__}).")
            continue
        if warnings:
            warnings.append(f"Going on from {path}, an earlier checkpoint.")
        return model, position, warnings
    if undamaged:
        raise InputError(
            f"{undamaged} cannot be loaded, though its checksums are right: {warnings[-1]} Was it "
            f"written by other versions than these? {folder / 'config.json'} names them."
        )
    if warnings:
        warnings.append("No checkpoint is whole: the training begins anew.")
    return None, Position(), warnings


def _checked_position(path):
    """Returns the position in a checkpoint whose checksums are all right."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("its checksums do not match")
        return Position(**json.loads(archive.read(POSITION_FILE)))


@contextlib.contextmanager
def termination():
    """Holds SIGTERM back, which a preempted machine sends.

    Yields:
        A function of the steps so far, which says whether the training is to end now. Where there
        are several processes it is called after every step in each, and they end at one step.
    """
    if multihost.launched():  # where JAX catches the signal
        yield multihost.end_is_asked_for
        return
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield lambda step: event.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
