"""What native code writes: to standard error past Python's logging, and into its exceptions."""

import os
import re
from contextlib import contextmanager

# What TensorFlow adds to a message: the nodes of the graph that raised it, a dumped proto.
NOISE = re.compile(
    r"\[\[\{\{.*?\}\}\]\]"
    r"|\[Op:\w+\]"
    r"|Graph execution error:.*?<stack traces unavailable>"
    r"|: goo\.gle/debug.*",
    re.DOTALL,
)
LONGEST = 300  # characters


def one_line(message):
    """Returns a message of native code on one line, shortened and without graph nodes."""
    return " ".join(NOISE.sub("", str(message)).split())[:LONGEST]


@contextmanager
def silenced():
    """Drops what is written to standard error, for code whose errors are exceptions."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
