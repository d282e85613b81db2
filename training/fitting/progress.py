"""What a person sees of a training: one line an epoch, with the time left for the whole run."""

import datetime
import math
import time

import keras
from rich.progress import BarColumn, Progress, TextColumn

from training import console

FIRST = 3  # the steps before it compile


class EpochLines(keras.callbacks.Callback):
    """Prints a line after each epoch; on a terminal, that line grows with a bar before.

    It is a context manager, which removes the bar also if the training ends by an exception.

    Args:
        steps: Integer, the steps of an epoch.
        sizes: The size of the images of every epoch of the run, pixels.
        images: Integer, images a step.
        quiet: Whether no bar is shown.
    """

    def __init__(self, steps, sizes, images, quiet=False):
        super().__init__()
        self.steps = steps
        self.sizes = sizes
        self.images = images
        self.pace = None  # seconds for a step of one pixel
        self.evaluation = 0.0  # seconds
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(8),
            TextColumn("{task.fields[figures]}"),
            console=console.terminal,
            transient=True,
            disable=quiet or not console.terminal.is_terminal,
        )

    def __enter__(self):
        self.bar.start()
        self.task = self.bar.add_task("", total=self.steps, figures="")
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.first_step = self.steps - self.params["steps"]  # of a resumed epoch
        self.began = time.perf_counter()
        self.measured = None
        name = self._name()
        self.bar.update(
            self.task, description=name, completed=self.first_step, figures="", visible=True
        )

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if self.measured is None and batch + 1 >= FIRST:
            self.measured = batch, now
        elif self.measured is not None:
            step = (now - self.measured[1]) / (batch - self.measured[0])
            self.pace = step / self.sizes[self.epoch] ** 2
        if not self.bar.disable:
            done = self.first_step + batch + 1
            self.bar.update(self.task, completed=done, figures=self._figures(logs, done))

    def on_test_begin(self, logs=None):
        self.test_began = time.perf_counter()

    def on_test_end(self, logs=None):
        self.evaluation = time.perf_counter() - self.test_began

    def on_epoch_end(self, epoch, logs=None):
        self.bar.update(self.task, visible=False)
        console.say(f"{self._name()} {self._figures(logs, self.steps)}")

    def _name(self):
        epochs = str(len(self.sizes))
        return f"{self.epoch + 1:{len(epochs)}}/{epochs}"

    def _figures(self, logs, done):
        """Returns the figures of a line; with its name and the bar it fits 80 columns."""
        words = [f"loss {logs['loss']:.3f}", f"top-1 {logs['top1']:.1%}"]
        if "val_top1" in logs:
            words.append(f"held-out {logs['val_top1']:.1%}")
        if self.pace:
            step = self.pace * self.sizes[self.epoch] ** 2
            words.append(f"{self.images / step:,.0f}/s")
        words.append(duration(time.perf_counter() - self.began))
        if left := self._left(done):
            words.append(f"left {duration(left)}")
        return " ".join(words)

    def _left(self, done):
        """Returns the seconds that the rest of the run takes; `None` if no step was measured."""
        later = self.sizes[self.epoch + 1 :]
        if not self.pace:
            return None if later else 0.0
        pixels = (self.steps - done) * self.sizes[self.epoch] ** 2
        pixels += self.steps * sum(size**2 for size in later)
        evaluations = len(later) + (done < self.steps)
        return self.pace * pixels + self.evaluation * evaluations


def duration(seconds):
    """Returns seconds as `0:45`, `12:03` or `1:05:00`."""
    text = str(datetime.timedelta(seconds=math.ceil(seconds)))
    return text.removeprefix("0:").removeprefix("0") if seconds < 3600 else text
