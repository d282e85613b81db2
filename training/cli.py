"""What every command line of the project shares: the parser, exit statuses and one-line errors."""

import argparse
import contextlib
import difflib
import errno
import os
import sys
import tempfile
import threading

# TensorFlow logs what it does not find; its own errors arrive as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A disk's refusals, which TensorFlow and HDF5 raise as errors of their own.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


LOADING = "loading TensorFlow …\n"
PATIENCE = 1.0  # seconds without that line


class InputError(Exception):
    """Bad usage or bad input; the message says what was received, expected, and what to do."""


class FailedError(Exception):
    """The work was done and its result is bad: a diverged training, a failed verification."""


class Terminated(Exception):  # noqa: N818 - no error
    """SIGTERM ended the work, which can be resumed; the message says how."""


class Parser(argparse.ArgumentParser):
    """A parser that accepts no abbreviated option; a wrong command line is an InputError."""

    def __init__(self, description, **settings):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **settings,
        )

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown[0])
        return parsed

    def refuse(self, argument):
        """Raises an InputError for an argument that the parser does not know."""
        if not argument.startswith("-"):
            how = "Give a run with --run. " if "--run" in self._option_string_actions else ""
            raise InputError(f"Unexpected argument {argument!r}. {how}--help lists the options.")
        option = argument.partition("=")[0]
        if option in {f"--{action.dest}" for action in self._get_positional_actions()}:
            raise InputError(f"Unknown option {option}. Give its value without {option}.")
        known = nearest(option, self._option_string_actions)
        raise InputError(f"Unknown option {option}. Did you mean {known}? --help lists them.")

    def error(self, message):
        raise InputError(f"{message}. --help lists the options.")


def check_name(kind, name, names):
    """Raises an InputError unless `name` is one of `names`; the message lists them.

    Args:
        kind: What is named, such as `"recipe"`.
        name: String, as it was received.
        names: The known names.
    """
    if name not in names:
        hint = f" Did you mean {nearest(name, names)!r}?" if names else ""
        raise InputError(f"Unknown {kind} {name!r}; there are {', '.join(names) or 'none'}.{hint}")


def nearest(name, names):
    """Returns the one of the names that is most alike."""
    return difflib.get_close_matches(str(name), list(names), n=1, cutoff=0)[0]


def number_up_to(most):
    """Returns the type of an option: a number above 0, at most `most`."""

    def read(text):
        try:
            if 0 < (value := float(text)) <= most:
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0, at most {most}")

    return read


@contextlib.contextmanager
def needing(extras):
    """Imports heavy packages in its block: quietly, with a line if it takes more than a second.

    A package that is missing becomes an InputError, which names the extras that install it.
    """
    try:
        with _quietly():
            yield
    except ModuleNotFoundError as missing:
        raise InputError(f"{missing.name} is not installed: pip install -e '.[{extras}]'") from None


@contextlib.contextmanager
def _quietly():
    """Holds back standard error, which TensorFlow's native code writes to; an error shows it."""
    sys.stderr.flush()
    kept = os.dup(2)
    waiting = threading.Timer(PATIENCE, lambda: os.write(kept, LOADING.encode()))
    if os.isatty(kept):
        waiting.start()
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            except (InputError, FailedError, ModuleNotFoundError):
                raise
            except Exception:
                held.seek(0)
                os.write(kept, held.read())
                raise
    finally:
        os.dup2(kept, 2)
        waiting.cancel()
        os.close(kept)


def run(main, leave=sys.exit):
    """Runs `main()` and exits: 0 done, 1 a bad result, 2 bad input or a full disk.

    130 is for Ctrl-C, 143 for SIGTERM. An `InputError` or a `FailedError` becomes one line on
    standard error, without a traceback.

    Args:
        main: Function.
        leave: Function that ends the process with a status other than 0.
    """
    try:
        main()
    except (InputError, FailedError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        leave(2 if isinstance(error, InputError) else 1)
    except OSError as error:  # a full or read-only disk in the middle of the work
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
        f"error: {file}: {reason}. Existing files are intact. Make room there and rerun.",
        file=sys.stderr,
    )
