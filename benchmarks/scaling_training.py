"""A training that trains when it is asked to: the process whose steps `scaling.py` times.

    python benchmarks/scaling_training.py ARCH BATCH_SIZE STEPS

It is train.py's own, on the synthetic set: its network, its stream, its optimizer, and what is
called after each step; it leaves out what comes between the epochs. A line of JSON on standard
input asks for something, one on standard output answers; the end of the input ends it. Where it is
one of several processes, each is asked the same.
"""

import functools
import json
import math
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.backend import get_backend
from jax.sharding import NamedSharding, PartitionSpec

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import callbacks, checkpoints, cli, data, devices, loop, network, recipes
from training.fit import Job

RECIPE = "paddle"  # train.py's default
FOREVER = 10**9  # epochs
DRAWN = 20  # batches of the stream
REPEATS = 10  # of an all-reduce


class Turns(keras.callbacks.Callback):
    """Makes a turn of each epoch: it begins when it is asked for, and ends with its seconds.

    Args:
        ask: Dictionary from what is asked for to the function that answers; `"train"` is not in it.
        ends: Function of the steps so far, as `checkpoints.termination` gives it.
        answers: File.
    """

    def __init__(self, ask, ends, answers):
        super().__init__()
        self.ask = ask
        self.ends = ends
        self.answers = answers
        self.steps = 0

    def on_epoch_begin(self, epoch, logs=None):
        for line in sys.stdin:
            request = json.loads(line)
            name = request.pop("do")
            if name == "train":
                self.step_ends = []
                return
            self.answer(self.ask[name](**request))
        os._exit(0)  # what the others do no longer matters

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.ends(self.steps)
        self.step_ends.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        """Answers with the seconds of a step, the mean of all but the first."""
        self.answer((self.step_ends[-1] - self.step_ends[0]) / (len(self.step_ends) - 1))

    def answer(self, content):
        """Writes a line."""
        print(json.dumps(content), file=self.answers, flush=True)


def all_reduce_seconds(sizes):
    """Returns the median seconds of some all-reduces over all devices, nothing else being done.

    Args:
        sizes: The bytes of each array of each all-reduce; each waits for the one before.
    """
    exchange, parts = _exchange(tuple(map(tuple, sizes)))
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(exchange(parts))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


@functools.cache
def _exchange(sizes):
    """Returns the compiled function of all-reduces, and its arrays, each device's part a row."""
    mesh = jax.make_mesh((jax.device_count(),), ("devices",))
    rows, every = PartitionSpec("devices"), PartitionSpec()

    def zeros(size):
        own = np.zeros((jax.local_device_count(), max(1, size // 4)), np.float32)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, rows), own)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=every)
    def exchange(parts):
        before = jnp.zeros(())
        for arrays in parts:
            # Without what was summed before, XLA would make them one.
            summed = jax.lax.psum([array + before for array in arrays], "devices")
            before = sum(array[0, 0] for array in summed)
        return before

    parts = [[zeros(size) for size in arrays] for arrays in sizes]
    jax.block_until_ready(exchange(parts))
    return exchange, parts


def quiet():
    """Lets the thread that gloo's messages come through run only where no other would.

    It polls without a pause while another thread has its lock. Where that one waits for the same
    core, it waits until the scheduler's next tick.
    """
    tasks = Path("/proc/self/task")
    own = (tasks / str(os.getpid()) / "comm").read_text()
    found = [
        int(task.name)
        for task in tasks.iterdir()
        if (task / "comm").read_text() == own and "epoll" in (task / "wchan").read_text()
    ]
    if not found:
        raise cli.FailedError("gloo's thread is not found among those of this process")
    for thread in found:
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    return len(found)


def traffic(model):
    """Returns what says what a step exchanges: some counts, and the compiled program, HLO text."""
    modules = [program.hlo_modules()[0] for program in get_backend().live_executables()]
    (*_, step) = (module for module in modules if "train_step" in module.name)
    return {
        "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
        "normalizations": sum(
            isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()
        ),
        "program": step.to_string(),
    }


def stream_seconds(batches):
    """Returns the seconds of one batch of a stream of training images."""
    batches = iter(batches)
    next(batches)
    started = time.perf_counter()
    for _ in range(DRAWN):
        next(batches)
    return (time.perf_counter() - started) / DRAWN


def main():
    """Trains, when asked."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is said is no answer
    arch, batch_size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    recipe = recipes.get(RECIPE, batch_size=batch_size)
    job = Job(arch, RECIPE, recipe, dataset="synthetic", strategy="multihost")
    placement = devices.place(job.strategy, print)
    keras.utils.set_random_seed(job.seed)
    dataset = data.load(job.dataset)
    epoch = data.steps_per_epoch(dataset.train, batch_size)
    model = network.compiled_model(job, dataset, epoch, "float32")
    batches = loop.training_batches(job, dataset, epoch, 0, 0, placement.shard)
    ask = {
        "all_reduce": all_reduce_seconds,
        "quiet": quiet,
        "traffic": lambda: traffic(model),
        "stream": lambda: stream_seconds(batches),
    }
    with checkpoints.termination() as ends:
        model.fit(
            batches,
            epochs=FOREVER,
            steps_per_epoch=steps + 1,
            shuffle=False,
            verbose=0,
            callbacks=[callbacks.StopOnNaN(), Turns(ask, ends, answers)],
        )


if __name__ == "__main__":
    cli.run(main)
