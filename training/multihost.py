"""Several processes, on one machine or many, that train as one: Keras on the JAX backend.

Each process is told by Keras' own environment variables where the first one is and which one it
is itself; `training/launch.py` sets them. A batch is shared among all devices of all processes,
and everything that is computed of it is that of the whole batch, the normalizations' statistics
included.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time

from training import cli
from training.cli import InputError

ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"
NAMES = (ADDRESSES, PROCESSES, PROCESS)
# Seconds: until all processes must have come, and after which a silent one counts as dead.
JOIN_TIMEOUT = int(os.environ.get("KERAS_NAM_JOIN_TIMEOUT", "120"))
HEARTBEAT_TIMEOUT = 60
FACTS_BYTES = 1 << 14


def choose_backend():
    """Makes JAX the backend of the Keras that is imported next.

    Raises:
        InputError: If another one was asked for, or JAX is not installed.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if "keras" in sys.modules:
        import keras

        backend = keras.backend.backend()
    if backend != "jax":
        raise InputError(
            f"--strategy multihost trains on Keras' JAX backend, and KERAS_BACKEND is {backend}: "
            "unset it, or set KERAS_BACKEND=jax."
        )
    with cli.needing("multihost"):
        import jax  # noqa: F401


def launched():
    """Whether this process was started as one of several."""
    return int(os.environ.get(PROCESSES, "1")) > 1


def gpu_capabilities():
    """Returns the compute capability of each GPU of this process."""
    import jax

    gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
    return [tuple(int(part) for part in gpu.compute_capability.split(".")) for gpu in gpus]


def join(say):
    """Joins the other processes; returns the number of this one, and how many there are.

    Raises:
        InputError: If the first process cannot be reached, or this one is there already.
    """
    choose_backend()
    if not launched():
        return 0, 1
    import jax

    address, process, processes = _identity()
    say(f"process {process} of {processes}: joining at {address}")
    sys.excepthook = _show_and_exit
    if process:
        _wait_for(address)
    timer = threading.Timer(JOIN_TIMEOUT, _give_up, (address, process, processes))
    timer.daemon = True
    timer.start()
    try:
        # Keras' own `initialize` does this, without the time-outs.
        jax.distributed.initialize(
            address,
            processes,
            process,
            cluster_detection_method="deactivate",  # Slurm's would take one device a process
            # JAX' own time-out aborts the process: the timer, which says why, comes before.
            initialization_timeout=JOIN_TIMEOUT + 30,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except RuntimeError as error:  # of JAX' coordination service
        raise InputError(
            f"Process {process} cannot join at {address} ({str(error).splitlines()[0]}). Does "
            "another process have its number, or did the others begin without it?"
        ) from None
    finally:
        timer.cancel()
    return process, processes


def _identity():
    """Returns the address of the first process, the number of this one, and how many there are."""
    try:
        address = os.environ[ADDRESSES].split(",")[0]
        process, processes = int(os.environ[PROCESS]), int(os.environ[PROCESSES])
        _, port = address.rsplit(":", 1)
        if not 0 < int(port) < 1 << 16 or not 0 <= process < processes:
            raise ValueError
    except (KeyError, ValueError):
        given = {name: os.environ.get(name) for name in NAMES}
        raise InputError(
            f"Received {given}; expected host:port, a number of processes and one below it. "
            "python training/launch.py sets them."
        ) from None
    return address, process, processes


def _wait_for(address):
    """Waits until the first process listens; its absence would abort this one, without a word."""
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + JOIN_TIMEOUT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"No first process at {address} within {JOIN_TIMEOUT} s ({error}). Is process "
                    "0 running, and is that its machine's address?"
                ) from None
            time.sleep(0.5)


def _give_up(address, process, processes):
    print(
        f"error: Process {process} waited {JOIN_TIMEOUT} s at {address}: not all {processes} "
        "processes came, or another has its number. Start one for each number from 0.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)  # the thread that waits cannot be interrupted


def agree(facts):
    """Compares what must be the same in every process.

    Args:
        facts: Dictionary of what JSON has.

    Raises:
        InputError: If a process has others than the first one; it says which.
    """
    if not launched():
        return
    import numpy as np
    from jax.experimental import multihost_utils

    own = json.dumps(facts, sort_keys=True).encode()
    padded = np.frombuffer(own.ljust(FACTS_BYTES), np.uint8)
    everyone = [json.loads(bytes(row)) for row in multihost_utils.process_allgather(padded)]
    for number, other in enumerate(everyone):
        unlike = [key for key in other if other[key] != everyone[0].get(key)]
        if unlike:
            words = (f"{key}: {everyone[0].get(key)} in process 0, {other[key]}" for key in unlike)
            raise InputError(f"Process {number} is unlike process 0: {'; '.join(words)}.")


def part():
    """Ends what the processes do together: after it each goes its own way."""
    if launched():
        import jax

        jax.distributed.shutdown()


def exit_at_once(status):
    """Ends a process: one that failed would wait at the end for the others, and they for it."""
    if launched() and status not in (0, 143):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _show_and_exit(kind, error, trace):
    """Shows an exception that nobody caught; the loss of another process in one line."""
    if "Gloo" in str(error) or "coordination" in str(error):
        print(
            f"error: Another process was lost ({str(error).splitlines()[0]}). The last checkpoint "
            "is kept: start all processes again, with --resume.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)
    exit_at_once(1)


@contextlib.contextmanager
def own_variables():
    """Makes what Keras creates meanwhile this process' own: saving makes variables of its own."""
    import keras

    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def end_is_asked_for(step):
    """Whether the processes end after a step: each is asked at every step, all get one answer.

    A SIGTERM that any of them got is told to all, and a step agreed on (JAX' preemption service).
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
