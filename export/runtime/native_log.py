"""What native code writes to standard error past Python's logging."""

import os
from contextlib import contextmanager


@contextmanager
def silenced():
    """Drops what is written to standard error: for code whose errors are exceptions."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
