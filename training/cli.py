"""What every command line of the project shares: its exit statuses and its one-line errors."""

import contextlib
import difflib
import errno
import os
import sys

# TensorFlow logs what it does not find; its own errors arrive as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A disk's refusals, which TensorFlow and HDF5 raise as errors of their own.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class InputError(Exception):
    """Bad usage or bad input; the message says what was received, expected, and what to do."""


class FailedError(Exception):
    """The work was done and its result is bad: a diverged training, a failed verification."""


def check_name(kind, name, names):
    """Raises an InputError unless `name` is one of `names`; the message has them and the nearest.

    Args:
        kind: What is named, such as `"recipe"`.
        name: String, as it was received.
        names: The names that there are.
    """
    if name not in names:
        nearest = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"Unknown {kind} {name!r}; there are {', '.join(names) or 'none'}.{hint}")


class Terminated(Exception):  # noqa: N818 - no error
    """The work was ended by SIGTERM, and can go on; the message says how."""


@contextlib.contextmanager
def needing(extras):
    """Makes an InputError of a package that is missing, which names the extras that install it."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise InputError(
            f"{missing.name} is not installed: pip install -e '.[{extras}]'"
        ) from None


def run(main, leave=sys.exit):
    """Runs `main()` and exits: 0 done, 1 a bad result, 2 bad input or a full disk.

    130 is for Ctrl-C, 143 for SIGTERM. An `InputError` or a `FailedError` becomes one line on
    standard error, without a traceback.

    Args:
        main: Function.
        leave: Function of a status that is not 0, which ends the process.
    """
    try:
        main()
    except (InputError, FailedError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        leave(2 if isinstance(error, InputError) else 1)
    except OSError as error:  # a full or read-only disk, met in the midst of the work
        _say_refused_by_disk(error.filename or "a file", error.strerror or error)
        leave(2)
    except Terminated as end:
        print(f"terminated: {end}", file=sys.stderr)
        leave(143)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        leave(130)
    except Exception as error:
        reason = next((text for text in map(os.strerror, DISK) if text in str(error)), None)
        if reason is None:
            raise
        _say_refused_by_disk("a file", reason)
        leave(2)


def _say_refused_by_disk(file, reason):
    print(
        f"error: {file}: {reason}. What was whole before is kept; mend that, then go on.",
        file=sys.stderr,
    )
