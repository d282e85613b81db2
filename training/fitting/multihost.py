"""Several processes, on one machine or on many, that train as one: Keras on the JAX backend.

Each process reads its place from Keras' environment variables, which `training/launch.py` sets. All
devices share each batch: losses, gradients and batch statistics are computed over all of it.
"""

import contextlib
import json
import os
import re
import sys
import threading

from training import cli
from training.cli import InputError

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
NAMES = (ADDRESSES, PROCESSES, PROCESS)
JOIN_TIMEOUT = int(os.environ.get("KERAS_NAM_JOIN_TIMEOUT", "120"))  # seconds


def launched():
    """Whether this process was started as one of several."""
    return int(os.environ.get(PROCESSES, "1")) > 1


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
    processes, process = (int(os.environ.get(name, "-1")) for name in (PROCESSES, PROCESS))
    place = address, processes, process
    check_place(*place)
    say(f"process {process} of {processes}: joining at {address}")

    def give_up():
        print(
            f"error: Process {process} waited {JOIN_TIMEOUT} s at {address}: not all {processes} "
            "processes joined. Does process 0 run there, and has each one its own number?",
            file=sys.stderr,
        )
        os._exit(2)  # the waiting thread cannot be interrupted

    timer = threading.Timer(JOIN_TIMEOUT, give_up)
    timer.daemon = True
    timer.start()
    sys.excepthook = _show_and_exit
    # As Keras' own `initialize`, with time-outs. JAX' time-out gives no reason: the timer is first.
    jax.distributed.initialize(
        *place,
        cluster_detection_method="deactivate",  # Slurm's would take one device a process
        initialization_timeout=JOIN_TIMEOUT + 30,
        heartbeat_timeout_seconds=60,
    )
    timer.cancel()
    return process, processes


def agree(facts):
    """Raises an InputError if a dictionary of JSON values differs between the processes."""
    if not launched():
        return
    import numpy as np
    from jax.experimental import multihost_utils

    own = np.frombuffer(json.dumps(facts, sort_keys=True).encode().ljust(1 << 14), np.uint8)
    first, *others = (json.loads(bytes(row)) for row in multihost_utils.process_allgather(own))
    for number, other in enumerate(others, start=1):
        unlike = [key for key in other if other[key] != first.get(key)]
        words = [f"{key}: {first.get(key)} in process 0, {other[key]}" for key in unlike]
        if words:
            raise InputError(f"Process {number} differs from process 0: {'; '.join(words)}.")


def part():
    """Leaves the other processes."""
    if launched():
        import jax

        jax.distributed.shutdown()


def exit_at_once(status):
    """Ends the process. After a failure it does not wait for the others, which wait for it."""
    if launched() and status not in (0, 143):
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _show_and_exit(kind, error, trace):
    """Prints an uncaught exception, or one line if the connection to another process failed."""
    if "Gloo" in str(error) or "coordination" in str(error):
        print(
            f"error: The connection to the other processes failed ({str(error).splitlines()[0]}). "
            "Restart all, each with its own number, and with --resume if the run has begun.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)
    exit_at_once(1)


@contextlib.contextmanager
def own_variables():
    """Makes variables that Keras creates here, as it does to save, local to this process."""
    import keras

    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def end_is_asked_for(step):
    """Whether all end after this step, since one received SIGTERM; all call it after each step."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
