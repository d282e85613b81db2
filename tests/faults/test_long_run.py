"""A training of many epochs: memory, open files and the size of its files do not grow."""

import functools
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from tests.faults.attempts import NAMES, Attempt, assert_whole
from tests.faults.child import after_each_step
from tests.support.networks import small_network
from training.runs import files as runs

# Five minutes: part of `make test-all`, not of `make test-faults`.
pytestmark = pytest.mark.slow
EPOCHS = 200
SETTLED = 50  # epochs until the memory has settled
# Bytes an epoch. Two thirds are Keras' (3.15): each save creates an optimizer, whose variables
# TensorFlow keeps.
GROWTH = 160_000
EVENTS, PICTURES = 5_000, 400_000  # bytes in TensorBoard's files, an epoch and once


def metered(path):
    """Writes a line after each step: its number, memory in bytes, open files, and threads."""
    own = Path("/proc/self")

    def measure(_, step):
        memory = int((own / "statm").read_text().split()[1]) * resource.getpagesize()
        files, threads = (len(os.listdir(own / name)) for name in ("fd", "task"))
        with open(path, "a") as file:
            print(step, memory, files, threads, file=file)

    after_each_step(measure)


def test_nothing_grows(tmp_path):
    folder, lines = tmp_path / "run", tmp_path / "meter"
    meter = functools.partial(metered, lines)
    more = ["--epochs", str(EPOCHS), "--steps-per-epoch", "1"]
    attempt = Attempt(folder, *more, prepare=(small_network.replace_network, meter))
    assert attempt.wait(seconds=1800) == 0, attempt.errors
    steps, memory, files, threads = np.loadtxt(lines, dtype=np.int64).T
    np.testing.assert_array_equal(steps, np.arange(1, EPOCHS + 1))
    growth, _ = np.polyfit(steps[SETTLED:], memory[SETTLED:], 1)
    assert growth < GROWTH
    assert len(set(files[SETTLED:])) == len(set(threads[SETTLED:])) == 1
    assert_whole(folder)
    assert {path.name for path in folder.iterdir()} == NAMES
    assert len(runs.read_history(folder / "history.csv")) == EPOCHS
    events = list((folder / "tensorboard").rglob("*tfevents*"))
    assert sum(path.stat().st_size for path in events) < PICTURES + EVENTS * EPOCHS
