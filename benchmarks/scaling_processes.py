"""Trainings that wait for their turn: their processes, and what is asked of them."""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from training import launch
from training.cli import FailedError, InputError
from training.grid import last_words

TRAINING = Path(__file__).with_name("scaling_training.py")


def two_cores():
    """Returns a core of each half of this machine's, which `launch.py --pin` would share out.

    Raises:
        InputError: If there are not two, or the system cannot bind a process to one.
    """
    try:
        return [share[0] for share in launch.shares(2)]
    except InputError as error:
        raise InputError(f"Two processes need a core each ({error})") from None


class Training:
    """A training of a process for each core, started as `launch.py --pin` does it.

    Args:
        name: String, for messages.
        cores: List of integers.
        arguments: List of strings, those of the program.
        folder: Path, of the logs.
        program: Path.
    """

    def __init__(self, name, cores, arguments, folder, program=TRAINING):
        self.name = name
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.logs = [folder / f"{name}-{number}.log" for number in range(len(cores))]
        self.processes = []
        for number, core in enumerate(cores):
            with open(self.logs[number], "w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(program), *arguments],
                        env=launch.environment(address, len(cores), number),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        start_new_session=True,  # Ctrl-C ends it from here
                        # Before it begins, so that XLA and TensorFlow make threads for one core.
                        preexec_fn=partial(os.sched_setaffinity, 0, [core]),
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Ends it: it has nothing to keep."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def send(self, request):
        """Asks each process."""
        for number, process in enumerate(self.processes):
            try:
                print(json.dumps(request), file=process.stdin, flush=True)
            except BrokenPipeError:
                self._fail(number)

    def receive(self):
        """Returns the answer of process 0, after all have answered."""
        answers = []
        for number, process in enumerate(self.processes):
            line = process.stdout.readline()
            if not line:
                self._fail(number)
            answers.append(json.loads(line))
        return answers[0]

    def _fail(self, number):
        raise FailedError(
            f"process {number} of the training {self.name!r} ended: {last_words(self.logs[number])}"
        )


def ask(*trainings, **request):
    """Asks trainings at the same time; returns their answers, when all have answered."""
    for training in trainings:
        training.send(request)
    return [training.receive() for training in trainings]
