"""The peak memory of training, each network in a process of its own: the peak is a process's."""

import json
import os
import subprocess
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli

STEPS = 3
# A step before the measuring: what compiling takes stays out of it.
WARM_UP_BATCH = 2
LINUX_PROCESS = Path("/proc/self/statm")


def measure(archs, batch_size, device, threads):
    """Returns a dictionary arch -> bytes an image at the peak of training.

    Raises:
        FailedError: If a process fails, as where the memory does not suffice.
    """
    peaks = {}
    for arch in archs:
        process = subprocess.run(
            [sys.executable, __file__, arch, str(batch_size), device, str(threads)],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            said = process.stderr.strip().splitlines() or [f"status {process.returncode}"]
            raise cli.FailedError(
                f"the memory of {arch} was not measured: {said[-1]}. A smaller --batch-size may fit"
            )
        peaks[arch] = json.loads(process.stdout.splitlines()[-1]) / batch_size
    return peaks


def peak_bytes(arch, batch_size, device, threads):
    """Returns by how much some steps raise the memory above that of the network, compiled.

    On a CPU it is the process's largest resident memory, on a GPU what TensorFlow has of it.
    """
    import tensorflow as tf

    from benchmarks.train_step_contenders import CLASSES, new_task, training_step
    from export.devices import prepare_tensorflow
    from keras_nam import create_model

    prepare_tensorflow(device, threads)
    model = create_model(arch, CLASSES)
    training_step(model, new_task(arch, WARM_UP_BATCH, device, threads))()
    step = training_step(model, new_task(arch, batch_size, device, threads))
    if device == "GPU":
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    else:
        before = _resident_bytes()
    for _ in range(STEPS):
        step()
    if device == "GPU":
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    return _most_resident_bytes() - before


def is_measurable(device):
    """Returns whether this system tells the memory of a process."""
    return device == "GPU" or LINUX_PROCESS.exists()


def _resident_bytes():
    return int(LINUX_PROCESS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _most_resident_bytes():
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    """Prints the bytes."""
    arch, batch_size, device, threads = sys.argv[1:]
    print(peak_bytes(arch, int(batch_size), device, int(threads)))


if __name__ == "__main__":
    cli.run(main)
