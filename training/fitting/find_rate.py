"""A sweep of the learning rate: from tiny to too large within some steps, and a suggestion."""

import dataclasses

import keras
import numpy as np
from keras import ops

from training.cli import FailedError
from training.fitting.schedules import Schedule
from training.runs import files, plots

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 100
SMOOTHING = 0.9  # of the loss, an exponential average
DIVERGED = 4.0  # times the lowest loss, which ends the sweep
MARGIN = 5.0  # by which the suggestion is below the rate of the lowest loss


@dataclasses.dataclass(eq=False)
class Sweep(Schedule):
    """`low * (high / low) ** (step / steps)`."""

    low: float = LOWEST
    high: float = HIGHEST
    steps: int = STEPS

    def __call__(self, step):
        share = ops.cast(step, "float32") / self.steps
        return self.low * ops.power(self.high / self.low, share)


class _Losses(keras.callbacks.Callback):
    """Records the rate and the smoothed loss of each step, and stops when it diverges."""

    def __init__(self):
        super().__init__()
        self.total = self.average = 0.0
        self.rates, self.losses = [], []

    def on_train_batch_begin(self, batch, logs=None):
        # In float16 a step that overflows does not count.
        self.rates.append(float(np.asarray(self.model.optimizer.learning_rate)))

    def on_train_batch_end(self, batch, logs=None):
        # Keras reports the mean of the losses so far.
        mean = logs["loss"] * (batch + 1)
        loss, self.total = mean - self.total, mean
        self.average = SMOOTHING * self.average + (1 - SMOOTHING) * loss
        smoothed = self.average / (1 - SMOOTHING ** (batch + 1))
        if not np.isfinite(smoothed) or smoothed > DIVERGED * min(self.losses, default=np.inf):
            self.model.stop_training = True
        else:
            self.losses.append(smoothed)


def find_rate(model, batches, folder, say):
    """Sweeps the learning rate of a compiled model; writes `learning_rate.png` and a JSON file.

    Args:
        model: A compiled `keras.Model`, whose optimizer has a `Sweep` as its schedule.
        batches: Endless `tf.data.Dataset` of training batches.
        folder: Path, where the files are written.
        say: Callable that receives progress messages.

    Returns:
        The suggested peak rate, a float: a fifth of the rate with the lowest smoothed loss.

    Raises:
        FailedError: If the first loss is not finite.
    """
    recorder = _Losses()
    model.steps_per_execution = 1
    model.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0, callbacks=[recorder])
    if not recorder.losses:
        raise FailedError(f"The first loss is not finite, at a learning rate of {LOWEST:g}.")
    rates = recorder.rates[: len(recorder.losses)]
    suggested = float(f"{rates[int(np.argmin(recorder.losses))] / MARGIN:.2g}")
    folder.mkdir(parents=True, exist_ok=True)
    found = {"learning_rates": rates, "losses": recorder.losses, "suggested": suggested}
    files.write_json(folder / "learning_rate.json", found)
    files.write_atomically(
        folder / "learning_rate.png",
        lambda path: plots.learning_rates(rates, recorder.losses, suggested, path),
    )
    say(f"Suggested: --learning-rate {suggested:g} ({folder}/learning_rate.png)")
    return suggested
