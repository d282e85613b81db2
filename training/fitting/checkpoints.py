"""Checkpoints: the model, its optimizer, and the position in the training."""

import contextlib
import dataclasses
import functools
import json
import shutil
import signal
import time
import zipfile

import keras
import numpy as np

from training.cli import FailedError, InputError, Terminated
from training.fitting import multihost
from training.runs import files

POSITION_FILE = "training.json"
DIVERGED = (
    "--resume tries again from the checkpoint before, if there is one. If it diverges again, start "
    "a new run, in another --run-dir, with a lower --learning-rate."
)


@dataclasses.dataclass(frozen=True)
class Position:
    """A position in a training: whole epochs, and steps into the next one.

    `seconds` and `metrics` (the sums and counts of the metrics) belong to those steps.
    """

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    metrics: tuple = ()


class Checkpoint(keras.callbacks.Callback):
    """Saves `last.keras` and `previous.keras`, which a training resumes from, and `best.keras`.

    It saves after each epoch, every `job.checkpoint_every` steps, and before the training ends on a
    signal. The previous checkpoint stays until the new one is whole. The best epoch has the highest
    top-1 on the validation split, of those with images of full size. Without such a split it is the
    last epoch, since a choice by the test set would be tuning on it. `best.keras` has no optimizer,
    so that Keras loads it with `import keras_nam` alone.

    Args:
        job: A `Job` whose steps are resolved.
        network: The model to save: the network of full size, even if another size is trained.
        history: `callbacks.History`, which writes the row of an epoch before its checkpoint; `None`
            in a process that writes nothing.
        position: `Position` that the training starts from.
        choose_best: Whether `val_top1` is measured on a validation split.
        ends: Function of the steps so far, whether to end the training now; see `termination`.
    """

    def __init__(self, job, network, history, position, choose_best, ends):
        super().__init__()
        self.folder = job.folder
        self.steps = job.steps_per_epoch
        self.every = job.checkpoint_every
        self.network = network
        self.history = history
        self.position = position
        self.choose_best = choose_best
        self.ends = ends
        self.score = job.recipe.score
        self.best = max(map(self.score, history.rows), default=()) if history else None

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
            check_loss(self.model, logs)
            self.position = Position(
                self.position.epochs,
                steps,
                time.perf_counter() - self.started,
                tuple(float(np.asarray(v)) for v in self.model.metrics_variables),
            )
            self._save()
            self._end(ends)

    def _add_metrics_before(self):
        """Adds the sums of the epoch's steps before the checkpoint, which Keras reset."""
        if self.metrics_before:
            variables = self.model.metrics_variables  # Keras builds them in the first step
            for variable, value in zip(variables, self.metrics_before, strict=True):
                variable.assign(np.asarray(variable) + value)
            self.metrics_before = ()

    def on_epoch_end(self, epoch, logs=None):
        self.position = Position(epoch + 1)
        if self.history:
            self.history.on_epoch_end(epoch, logs)
        # The figures as they are written, which a resumed training reads.
        found = self.score(self.history.rows[-1]) if self.history else None
        is_best = self.history and (not self.choose_best or found >= self.best)
        self._save(is_best)
        if is_best:
            self.best = found
        self._end(self.ends((epoch + 1) * self.steps))

    def _save(self, is_best=False):
        check_weights(self.model)
        if not self.history:
            return
        last = self.folder / "last.keras"
        if last.exists():
            copy = functools.partial(shutil.copyfile, last)
            files.write_atomically(self.folder / "previous.keras", copy)

        def write(path):
            self._write(self.network, path)
            # Before last.keras gets its name: a training that is killed here repeats the epoch.
            if is_best:
                network = keras.Model(
                    self.network.inputs, self.network.outputs, name=self.network.name
                )
                write_best = functools.partial(self._write, network)
                with averaged(self.model):
                    files.write_atomically(self.folder / "best.keras", write_best)

        files.write_atomically(last, write)

    def _write(self, network, path):
        _ = self.model  # on JAX, reading a callback's model updates its variables
        with multihost.own_variables():
            network.save(path)
        position = json.dumps(dataclasses.asdict(self.position), allow_nan=False)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(POSITION_FILE, position)

    def _end(self, ends):
        if ends:
            message = (
                f"{self.folder} keeps epoch {self.position.epochs}, step {self.position.steps}: "
                "--resume continues there."
            )
            raise KeyboardInterrupt(message) if ends == signal.SIGINT else Terminated(message)


@contextlib.contextmanager
def averaged(model):
    """Puts the optimizer's average of the weights in the place of a model's, if it has one.

    `keras.callbacks.SwapEMAWeights` adds and subtracts on TensorFlow, which rounds the weights.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    variables = optimizer._trainable_variables
    weights = [np.array(variable) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        variable.assign(np.array(average))
    try:
        yield
    finally:
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)


def check_loss(model, logs):
    """Raises a FailedError if the training loss in Keras' logs is NaN or infinite."""
    loss = (logs or {}).get("loss", 0.0)
    if not np.isfinite(loss):
        step = int(np.asarray(model.optimizer.iterations))
        raise FailedError(f"The loss became {loss} at step {step}. {DIVERGED}")


def check_weights(model):
    """Raises a FailedError if some weights of a model are NaN or infinite."""
    if not all(np.isfinite(np.asarray(variable)).all() for variable in model.variables):
        step = int(np.asarray(model.optimizer.iterations))
        raise FailedError(f"Some weights are not finite after step {step}. {DIVERGED}")


def position_of(path):
    """Returns the position in a checkpoint, or `None` if the file is missing or damaged."""
    try:
        return _checked_position(path)
    except Exception:  # zipfile raises many kinds
        return None


def load_newest(folder):
    """Returns the model, with its optimizer, of the newest whole checkpoint, and its position.

    Returns:
        A tuple (model, `Position`, warnings); (`None`, the start, warnings) if there is none.

    Raises:
        InputError: If none can be loaded though one is undamaged, `best.keras` included, since a
            start from the beginning would overwrite it.
    """
    warnings = []
    undamaged = None
    for name in ("last.keras", "previous.keras"):
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
            warnings.append(f"Resuming from {path}, an earlier checkpoint.")
        return model, position, warnings
    if undamaged:
        raise InputError(
            f"{undamaged} cannot be loaded, though its checksums are right: {warnings[-1]} Was it "
            f"written by other versions than these? {folder / 'config.json'} names them."
        )
    if warnings:
        best = folder / "best.keras"
        if position_of(best):
            raise InputError(
                f"{' '.join(warnings)} {best} is undamaged, but has no optimizer to resume with. "
                "Evaluate or export it, and train in another --run-dir. Or move it away, and "
                "--resume starts from the beginning."
            )
        warnings.append("No checkpoint is whole: the training starts from the beginning.")
    return None, Position(), warnings


def _checked_position(path):
    """Returns the position in a checkpoint whose checksums are all right."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("its checksums do not match")
        return Position(**json.loads(archive.read(POSITION_FILE)))


@contextlib.contextmanager
def termination():
    """Delays SIGTERM, which a preempted machine sends, and Ctrl-C to the end of a step.

    A second Ctrl-C ends the training at once.

    Yields:
        A function of the steps so far, which returns whether to end the training now: the signal,
        or a Boolean. Several processes call it after every step, and all end at the same step.
    """
    if multihost.launched():  # JAX catches the signal
        yield multihost.end_is_asked_for
        return
    received = []

    def receive(number, frame):
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda step: received[0] if received else False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
