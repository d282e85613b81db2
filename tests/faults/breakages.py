"""What is done to a training before it begins: another clock, a limit, NaN weights, a meter."""

import os
import resource
import time
from pathlib import Path

import numpy as np

from training.fitting import checkpoints


def limit_file_size(size):
    """Limits the size of files to `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def jumping_clock(jumps):
    """Shifts the clock by `jumps[step]` seconds from a step on, but not `perf_counter`."""
    clock = time.time
    shift = [0.0]
    time.time = lambda: clock() + shift[0]

    def jump(model, step):
        shift[0] = jumps.get(step, shift[0])

    _after_each_step(jump)


def nan_in_the_weights(step):
    """Makes the first kernel NaN after a step, and so the loss of the next one."""

    def spoil(model, done):
        if done == step:
            model.weights[0].assign(np.full(model.weights[0].shape, np.nan))

    _after_each_step(spoil)


def metered(path):
    """Writes a line after each step: its number, memory in bytes, open files, and threads."""
    own = Path("/proc/self")

    def measure(_, step):
        memory = int((own / "statm").read_text().split()[1]) * resource.getpagesize()
        files, threads = (len(os.listdir(own / name)) for name in ("fd", "task"))
        with open(path, "a") as file:
            print(step, memory, files, threads, file=file)

    _after_each_step(measure)


def _after_each_step(act):
    """Calls `act(model, step)` after each step, before its checkpoint."""
    on_train_batch_end = checkpoints.Checkpoint.on_train_batch_end

    def acting(self, batch, logs=None):
        act(self.model, int(self.model.optimizer.iterations))
        on_train_batch_end(self, batch, logs)

    checkpoints.Checkpoint.on_train_batch_end = acting
