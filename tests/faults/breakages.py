"""What is done to a training before it begins: another network, clock, limit or weight, a meter."""

import os
import resource
import time
from pathlib import Path

import keras
import numpy as np

import keras_nam
from training import checkpoints, network


def stand_in():
    """Has it fit a network of 200 weights, which is traced in a second instead of ten."""
    network.initial_model = _small_network


def _small_network(job, classes):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, use_bias=False)(image)
    x = keras_nam.BatchNormalization()(x)
    x = keras_nam.NAMChannelAttention()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.Dense(classes)(x))


def limit_file_size(size):
    """Lets no file become larger than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def jumping_clock(jumps):
    """Has the clock be wrong by `jumps[step]` seconds from a step on; `perf_counter` is right."""
    right = time.time
    wrong_by = [0.0]
    time.time = lambda: right() + wrong_by[0]

    def jump(model, step):
        wrong_by[0] = jumps.get(step, wrong_by[0])

    _after_each_step(jump)


def nan_in_the_weights(step):
    """Makes the first kernel NaN after a step: the loss is so at the next one."""

    def spoil(model, done):
        if done == step:
            model.weights[0].assign(np.full(model.weights[0].shape, np.nan))

    _after_each_step(spoil)


def metered(path):
    """Writes a line after each step: its number, the memory in bytes, open files, and threads."""
    own = Path("/proc/self")

    def measure(_, step):
        memory = int((own / "statm").read_text().split()[1]) * resource.getpagesize()
        files, threads = (len(os.listdir(own / name)) for name in ("fd", "task"))
        with open(path, "a") as file:
            print(step, memory, files, threads, file=file)

    _after_each_step(measure)


def _after_each_step(act):
    """Calls `act(model, step)` after each step, before a checkpoint is made."""
    on_train_batch_end = checkpoints.Checkpoint.on_train_batch_end

    def acting(self, batch, logs=None):
        act(self.model, int(self.model.optimizer.iterations))
        on_train_batch_end(self, batch, logs)

    checkpoints.Checkpoint.on_train_batch_end = acting
