"""Several processes, on one machine or on many, that train as one: Keras on the JAX backend.

Each process reads its place from Keras' own environment variables, which `training/launch.py`
sets. All devices of all processes share each batch. Losses, gradients and the statistics of the
normalizations are those of the whole batch.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading

from training import cli
from training.cli import InputError

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
NAMES = (ADDRESSES, PROCESSES, PROCESS)
# Seconds until all processes must have joined.
JOIN_TIMEOUT = int(os.environ.get("KERAS_NAM_JOIN_TIMEOUT", "120"))


def launched():
    """Whether this process was started as one of several."""
    return int(os.environ.get(PROCESSES, "1")) > 1


def environment(address, processes, process):
    """Returns the environment of one of several processes."""
    place = dict(zip(NAMES, (address, str(processes), str(process)), strict=True))
    variables = {**os.environ, **place, "KERAS_BACKEND": "jax", "PYTHONUNBUFFERED": "1"}
    variables.pop("SLURM_LOCALID", None)  # JAX would use only the device of that number
    return variables


def free_address():
    """Returns an address of this machine at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def check_place(address, processes, process):
    """Raises an InputError unless `address` is HOST:PORT, and `process` one of `processes`."""
    match = re.fullmatch(r"(\[[^]/]+\]|[^][:/]+):([0-9]{1,5})", address)
    if not (match and 0 < int(match[2]) < 1 << 16 and 0 <= process < processes):
        raise InputError(
            f"Process {process} of {processes}, coordinator {address}: expected a number below the "
            "number of processes, and HOST:PORT, such as node0:12345 or [::1]:12345."
        )


def choose_backend():
    """Makes JAX the backend of Keras; InputError if another one is set or loaded already."""
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if "keras" in sys.modules:
        backend = sys.modules["keras"].backend.backend()
    if backend != "jax":
        raise InputError(
            f"--strategy multihost: expected the JAX backend, and KERAS_BACKEND is {backend}. "
            "Unset it, or set KERAS_BACKEND=jax."
        )
    with cli.needing("multihost"):
        import jax  # noqa: F401


def join(say):
    """Joins the other processes; returns the number of this one, and how many there are."""
    choose_backend()
    if not launched():
        return 0, 1
    import jax

    address = os.environ.get(ADDRESSES, "").split(",")[0]
    process, processes = (int(os.environ.get(name, "-1")) for name in (PROCESS, PROCESSES))
    check_place(address, processes, process)
    say(f"process {process} of {processes}: joining at {address}")

    def give_up():
        print(
            f"error: Process {process} waited {JOIN_TIMEOUT} s at {address}: not all {processes} "
            "processes joined. Does process 0 run there, and has each one its own number?",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # the thread that waits cannot be interrupted

    timer = threading.Timer(JOIN_TIMEOUT, give_up)
    timer.daemon = True
    timer.start()
    sys.excepthook = _show_and_exit
    # Keras' own `initialize` does this, without the time-outs.
    jax.distributed.initialize(
        address,
        processes,
        process,
        cluster_detection_method="deactivate",  # Slurm's would take one device a process
        # JAX' own time-out aborts the process without a reason, so the timer comes first.
        initialization_timeout=JOIN_TIMEOUT + 30,
        heartbeat_timeout_seconds=60,
    )
    timer.cancel()
    return process, processes


def agree(facts):
    """Raises an InputError if a dictionary, of what JSON holds, is not the same everywhere."""
    if not launched():
        return
    import numpy as np
    from jax.experimental import multihost_utils

    own = np.frombuffer(json.dumps(facts, sort_keys=True).encode().ljust(1 << 14), np.uint8)
    first, *others = (json.loads(bytes(row)) for row in multihost_utils.process_allgather(own))
    for number, other in enumerate(others, start=1):
        unlike = [key for key in other if other[key] != first.get(key)]
        if unlike:
            words = (f"{key}: {first.get(key)} in process 0, {other[key]}" for key in unlike)
            raise InputError(f"Process {number} is unlike process 0: {'; '.join(words)}.")


def part():
    """Leaves the other processes: from here on each one works alone."""
    if launched():
        import jax

        jax.distributed.shutdown()


def exit_at_once(status):
    """Ends the process. After a failure it does not wait for the others, which wait for it."""
    if launched() and status not in (0, 143):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _show_and_exit(kind, error, trace):
    """Prints an uncaught exception, or one line if it is the loss of another process."""
    if "Gloo" in str(error) or "coordination" in str(error):
        print(
            f"error: The connection to the other processes failed ({str(error).splitlines()[0]}). "
            "Start all again, each with its own number, and with --resume if the run has begun.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)
    exit_at_once(1)


@contextlib.contextmanager
def own_variables():
    """Makes the variables that Keras creates, as it does to save, this process' own."""
    import keras

    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def end_is_asked_for(step):
    """Whether all end after this step, as one received SIGTERM. All ask after every step."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
