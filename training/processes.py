"""Processes that belong together: their output passed on, and the end of one the end of all."""

import contextlib
import ctypes
import io
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time

from training.launch_outcome import Outcome

PATIENCE = 60  # seconds to end in after a signal from outside: a checkpoint is written in them
AFTER_FAILURE = 20  # seconds to end in after another's failure: nothing is trained any more
LINGER = 60  # seconds to end in after the first process, which ends last, has ended well
HANG = 10  # seconds to end in after an "error:" line, which is the last thing that is said

FORWARDED = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}
PR_SET_PDEATHSIG = 1


class Process:
    """A process that ends with this one, in a session of its own.

    Args:
        number: Integer, which stands before each line of its output.
        command: List of strings.
        environment: Dictionary.
        cores: The cores that it may use; `None` for all.
    """

    def __init__(self, number, command, environment, cores=None):
        self.number = number
        self.last_words = "it said nothing"
        self.killed = False
        self.popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches it once, from here, not a second time from the terminal.
            start_new_session=True,
            preexec_fn=_before_exec(cores),
        )

    @property
    def said_error(self):
        """Whether the last words are an `error:` line."""
        return self.last_words.startswith("error:")

    def watch(self, events):
        """Begins to pass on its output, and to tell of its end."""
        reader = threading.Thread(target=self._pass_on, args=(events,), daemon=True)
        reader.start()
        threading.Thread(target=self._wait, args=(events, reader), daemon=True).start()

    def send(self, number):
        """Sends a signal, if it still runs."""
        self.popen.send_signal(number)

    def kill(self):
        """Kills it and what it has started."""
        self.killed = True
        self._kill_group()

    def _pass_on(self, events):
        # Unlike bytes, text is split at carriage returns too: a progress bar draws with them.
        text = io.TextIOWrapper(self.popen.stdout, "utf-8", "surrogateescape", newline="")
        for line in text:
            if line.endswith("\r"):  # drawn over by what follows
                continue
            line = line.rstrip("\r\n")
            _write(f"[{self.number}] {line}\n".encode("utf-8", "surrogateescape"), events)
            if line.startswith("error:"):
                self.last_words = line
                events.put(("error", self))
            elif line.strip() and not self.said_error:
                self.last_words = line

    def _wait(self, events, reader):
        self.popen.wait()
        self._kill_group()  # what it has left behind, which may hold its output open
        reader.join(timeout=5)
        events.put(("end", self))

    def _kill_group(self):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)


def _write(line, events):
    """Writes a line, bytes, to standard output; tells once if it cannot be written."""
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except OSError as error:  # `| head` has ended: read on, so that no process waits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        events.put(("output", error))


def run_together(starts, patience=PATIENCE):
    """Starts processes and waits for them; the failure of one, or a signal, stops all.

    Args:
        starts: Functions that each return a `Process`.
        patience: Seconds that they have to end after a signal.

    Returns:
        An `Outcome`.
    """
    events = queue.SimpleQueue()
    processes = []
    with _signals(events):
        try:
            for start in starts:
                processes.append(start())
            for process in processes:  # no thread before the last fork
                process.watch(events)
            return _supervise(processes, events, patience)
        finally:
            for process in processes:
                if process.popen.poll() is None:
                    process.kill()


def _supervise(processes, events, patience):
    """Returns the `Outcome`, when the last process has ended."""
    outcome = Outcome()
    running = list(processes)
    deadline, hung = math.inf, None

    def stop(cause, number, seconds):
        nonlocal deadline
        outcome.cause = cause
        deadline = time.monotonic() + seconds
        for process in running:
            process.send(number)

    while running:
        kind, what = _next(events, deadline) or ("deadline", None)
        if kind == "end":
            running.remove(what)
            outcome.ended.append(what)
        if outcome.cause:
            if kind == "deadline" or (kind, what) == ("signal", signal.SIGINT):
                deadline = math.inf
                for process in running:
                    process.kill()
        elif kind == "deadline":
            cause = ("error", hung) if hung else ("late", list(running))
            stop(cause, signal.SIGTERM, min(AFTER_FAILURE, patience))
        elif kind == "signal":
            stop((kind, what), FORWARDED[what], patience)
        elif kind == "output" or (kind == "end" and what.popen.returncode):
            stop((kind, what), signal.SIGTERM, min(AFTER_FAILURE, patience))
        elif kind == "error" and hung is None:
            deadline, hung = time.monotonic() + HANG, what
        elif kind == "end" and what.number == 0:
            deadline = min(deadline, time.monotonic() + LINGER)
        elif kind == "end" and what is hung:  # and yet it ended well
            deadline, hung = math.inf, None
    return outcome


def _next(events, deadline):
    """Returns the next event, or `None` at the deadline."""
    left = None if deadline == math.inf else max(0, deadline - time.monotonic())
    try:
        return events.get(timeout=left)
    except queue.Empty:
        return None


@contextlib.contextmanager
def _signals(events):
    """Makes events of the signals that end this process, but of those that it is to ignore."""
    before = {number: signal.getsignal(number) for number in FORWARDED}
    caught = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in caught:
            signal.signal(number, lambda number, _: events.put(("signal", number)))
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


def _before_exec(cores):
    """Returns what a new process does before its program begins."""
    parent = os.getpid()
    linux = sys.platform == "linux"
    prctl = ctypes.CDLL(None).prctl if linux else None

    def prepare():
        if linux:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
        if cores:
            os.sched_setaffinity(0, cores)

    return prepare
