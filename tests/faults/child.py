"""A command in a new process that stops or kills itself at a moment that the test chose.

The process is forked from a server that has imported everything and run nothing, so it starts in
milliseconds. It logs what it does to its folder, one event a line, and sends itself the signal at
one of them.
"""

import dataclasses
import os
import signal
import sys
import zipfile

import matplotlib.backends.backend_agg  # noqa: F401 - imported late by a training
import tensorflow_datasets  # noqa: F401
import tensorflow_serving.apis.prediction_log_pb2  # noqa: F401

import training.fitting.job  # noqa: F401
from training import cli
from training.fitting import checkpoints

# Python's audit event -> the indices of its arguments: the path, the descriptor of its folder.
EVENTS = {
    "open": (0, None),
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rename": (1, 3),
    "shutil.copyfile": (1, None),
    "shutil.rmtree": (0, None),
    "zip.member": (0, None),
    "training.step": (0, None),
}
WRITING = os.O_WRONLY | os.O_RDWR


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a process sends itself a signal: after its log has these lines, in this order.

    Only the start of each line is given, and other lines may come between. The last event is about
    to happen.
    """

    lines: tuple
    signal: int = signal.SIGKILL


def run(command, arguments, folder, log, moment, prepare):
    """Runs a command line of the project and exits with its status.

    Args:
        command: Function of a list of arguments.
        arguments: That list.
        folder: Path of the folder whose events are logged.
        log: Path of the log. Output goes to the same path with `.out` and `.err`.
        moment: `Moment` at which the process sends itself a signal, or `None`.
        prepare: Functions without arguments that are called first.
    """
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{log}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    assert len(os.listdir(f"/proc/{os.getppid()}/task")) == 1, "a fork keeps only one thread"
    for change in prepare:
        change()
    _announce_steps_and_members()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(_hook(str(folder), descriptor, moment))
    cli.run(lambda: command(arguments))


def after_each_step(act):
    """Calls `act(model, step)` after each step, before its checkpoint."""
    on_train_batch_end = checkpoints.Checkpoint.on_train_batch_end

    def acting(self, batch, logs=None):
        act(self.model, int(self.model.optimizer.iterations))
        on_train_batch_end(self, batch, logs)

    checkpoints.Checkpoint.on_train_batch_end = acting


def _announce_steps_and_members():
    """Announces each step of a training and each file written into an archive as an event."""
    after_each_step(lambda model, step: sys.audit("training.step", str(step)))
    open_member = zipfile.ZipFile.open

    def announce_member(self, name, mode="r", *args, **kwargs):
        if mode == "w":
            sys.audit("zip.member", self.filename)
        return open_member(self, name, mode, *args, **kwargs)

    zipfile.ZipFile.open = announce_member


def _hook(folder, log, moment):
    """Returns the audit hook, which writes the log and waits for the moment."""
    awaited = list(moment.lines) if moment else []

    def hook(event, arguments):
        line = _line(event, arguments, folder)
        if line is None:
            return
        os.write(log, f"{line}\n".encode())
        if awaited and line.startswith(awaited[0]):
            awaited.pop(0)
            if not awaited:
                os.kill(os.getpid(), moment.signal)

    return hook


def _line(event, arguments, folder):
    """Returns `<event> <path in the folder>`, or `None` if it is not to be logged."""
    if event not in EVENTS:
        return None
    if event == "training.step":
        return f"{event} {arguments[0]}"
    if event == "open" and (isinstance(arguments[0], int) or not arguments[2] & WRITING):
        return None
    path, parent = EVENTS[event]
    path = os.fspath(arguments[path])
    if parent is not None and arguments[parent] >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[parent]}"), path)
    if not path.startswith(f"{folder}{os.sep}"):
        return None
    return f"{event} {os.path.relpath(path, folder)}"
