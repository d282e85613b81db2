"""launch.py in a process of its own, with processes that run code in place of train.py."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in_worker.py")


def start(folder, *argv, do=(), limits="", stdout=subprocess.PIPE, **environment):
    """Starts launch as a shell does, with processes that run the code in `do`."""
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background job ignores
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from training import cli, launch, processes
launch.TRAIN = Path({str(STAND_IN)!r})
{limits}
cli.run(lambda: launch.main({list(argv)}))
"""
    environment |= {f"DO_{number}": text for number, text in enumerate(do)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FOLDER": str(folder), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        start_new_session=True,
    )


def finish(process):
    """Returns (status, lines of standard output, lines of standard error)."""
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()  # and the kernel its processes
    assert "Traceback" not in errors
    return process.returncode, (output or "").splitlines(), errors.splitlines()


def launched(folder, *argv, **options):
    return finish(start(folder, *argv, **options))


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(folder, name):
    """Whether the process whose id a file holds is there, and no zombie."""
    try:
        stat = Path(f"/proc/{(folder / name).read_text()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
