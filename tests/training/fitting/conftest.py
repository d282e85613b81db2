"""Trainings of the small network that write only history and checkpoints, and their signals."""

import os

import pytest

from tests.support import small_network
from training.fitting import callbacks


@pytest.fixture(scope="module")
def lean():
    """Makes the trainings of a module fast, see `small_network`."""
    with pytest.MonkeyPatch.context() as patch:
        small_network.write_only_history_and_checkpoints(patch)
        yield


@pytest.fixture
def signal_after(monkeypatch):
    """A function: sends a signal to this process after a step of a training."""
    original = callbacks.TimeEstimate.on_train_batch_end

    def send_after(step, number):
        def on_train_batch_end(self, batch, logs=None):
            original(self, batch, logs)
            if int(self.model.optimizer.iterations) == step:
                monkeypatch.setattr(callbacks.TimeEstimate, "on_train_batch_end", original)
                os.kill(os.getpid(), number)

        monkeypatch.setattr(callbacks.TimeEstimate, "on_train_batch_end", on_train_batch_end)

    return send_after
