"""How processes that belong together ended: the exit status, and the line that says why."""

import dataclasses
import signal

STATUSES = (1, 2, 130, 143)  # those of train.py, which are passed on
SIGNALLED = (0, 130, 143, -signal.SIGINT, -signal.SIGTERM)  # what a signal from outside leads to


@dataclasses.dataclass
class Outcome:
    """How the processes ended.

    Attributes:
        cause: What came first of the events that stop all, and whose it was; `None` if nothing
            did. `("end", process)` is a failure, `("error", process)` an `error:` line and no end
            after it, `("late", processes)` those that ran on after process 0, `("signal", number)`
            one from outside, `("output", OSError)` that nothing more can be written.
        ended: The processes, in the order of their ends.
    """

    cause: tuple | None = None
    ended: list = dataclasses.field(default_factory=list)

    def verdict(self):
        """Returns the exit status, and the line that says why it is not 0."""
        kind, what = self.cause or (None, None)
        if kind is None:
            return 0, ""
        if kind == "signal":
            return self._stopped_by(what)
        if kind == "end":
            code = what.popen.returncode
            return code if code in STATUSES else 1, f"error: {describe(what)}"
        reasons = {
            "error": lambda process: f"process {process.number} hung after: {_said(process)}",
            "late": lambda late: f"{_named(late)} ran on after the end of process 0",
            "output": lambda error: f"the output cannot be written: {error.strerror}",
        }
        return 1, f"error: {reasons[kind](what)}"

    def _stopped_by(self, number):
        killed = [process for process in self.ended if process.killed]
        failed = [p for p in self.ended if p.popen.returncode not in SIGNALLED and not p.killed]
        words = [describe(process) for process in failed]
        if killed:
            words.append(f"{_named(killed)} did not end and had to be killed")
        status, word = (130, "interrupted") if number == signal.SIGINT else (143, "terminated")
        return status, f"{word}: {'; '.join(words) or 'all processes have ended'}"


def describe(process):
    """Returns how a process failed, and what it said last."""
    code = process.popen.returncode
    if code > 0:
        return f"process {process.number} failed with status {code}: {_said(process)}"
    how = f"process {process.number} died of signal {-code} ({signal.strsignal(-code)})"
    # Else the last line is that of a stack, or of the training as it went.
    return f"{how}: {_said(process)}" if process.said_error else how


def _said(process):
    words = process.last_words
    return words.removeprefix("error:").strip() if process.said_error else f"it said last: {words}"


def _named(processes):
    return "process " + ", ".join(str(process.number) for process in processes)
