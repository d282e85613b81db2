"""A disk that is full or read-only: one line, status 2, and what was whole is there as before."""

import functools
import os
import signal
import subprocess

import pytest
from attempts import CHECKPOINTS, Attempt, assert_equal_runs, assert_whole
from breakages import limit_file_size, stand_in
from child import Moment

pytestmark = [pytest.mark.slow, pytest.mark.faults]
EVERY = ["--checkpoint-every", "2"]
MEGABYTES = 8


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Leaves no byte free; returns the file that takes them all."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def checkpoints(folder):
    return {name: (folder / name).read_bytes() for name in CHECKPOINTS if (folder / name).exists()}


def checkpoints_of_a_killed_run(folder):
    killed = Attempt(folder, *EVERY, moment=Moment(("training.step 3",)))
    assert killed.wait() == -signal.SIGKILL
    return checkpoints(folder)


def assert_resumes(folder, uninterrupted):
    """Goes on with a run, to the end that it would have had."""
    resumed = Attempt(folder, *EVERY, "--resume")
    assert resumed.wait() == 0, resumed.errors
    assert_equal_runs(folder, uninterrupted.folder)


@pytest.mark.parametrize(
    "lines",
    [
        ["open .lock"],
        ["training.step 8", "open .history.writing.csv"],
        ["training.step 8", "os.remove .curves.writing.png"],
        ["training.step 8", "open .previous.writing.keras"],
        ["training.step 8", "open .last.writing.keras"],
        ["training.step 8", "open .best.writing.keras"],
        ["shutil.rmtree saved_model/.version-1.writing"],
        ["open .result.writing.json"],
    ],
    ids=lambda lines: lines[-1],
)
def test_full_from_a_moment_on(disk, uninterrupted, lines):
    folder = disk / "run"
    attempt = Attempt(folder, *EVERY, moment=Moment(tuple(lines), signal=signal.SIGSTOP))
    attempt.wait_until_stopped()
    filler = fill(disk)
    before = checkpoints(folder)
    os.kill(attempt.process.pid, signal.SIGCONT)
    assert attempt.wait() == 2, attempt.errors
    assert "No space left on device" in attempt.error_line()
    assert_whole(folder)
    assert set(before) <= set(checkpoints(folder))
    assert not list(folder.rglob("*writing*"))

    filler.unlink()
    assert_resumes(folder, uninterrupted)


def test_files_that_may_not_be_so_large(uninterrupted, tmp_path):
    """A limit (ulimit -f) stands in for the disk where none may be mounted."""
    folder = tmp_path / "run"
    before = checkpoints_of_a_killed_run(folder)
    limit = functools.partial(limit_file_size, 20_000)
    attempt = Attempt(folder, *EVERY, "--resume", prepare=(stand_in, limit))
    assert attempt.wait() == 2
    assert "File too large" in attempt.error_line()
    assert checkpoints(folder) == before
    assert_whole(folder)
    assert_resumes(folder, uninterrupted)


def test_read_only(disk, uninterrupted):
    folder = disk / "run"
    before = checkpoints_of_a_killed_run(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for place in (folder, disk / "another"):
        attempt = Attempt(place, *EVERY, "--resume")
        assert attempt.wait() == 2
        assert "Read-only file system" in attempt.error_line()
    assert checkpoints(folder) == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert_resumes(folder, uninterrupted)
