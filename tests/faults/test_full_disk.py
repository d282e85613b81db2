"""A full or read-only disk: one line, status 2, and the files from before are intact."""

import os
import signal
import subprocess

import pytest

from tests.faults.attempts import CHECKPOINTS, Attempt, assert_equal_runs, assert_whole
from tests.faults.child import Moment

pytestmark = [pytest.mark.slow, pytest.mark.faults]
EVERY = ["--checkpoint-every", "2"]
MEGABYTES = 8


@pytest.fixture
def disk(tmp_path):
    """The folder of a newly mounted small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs root to mount a disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Fills the disk with a file; returns its path."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def checkpoints(folder):
    return {name: (folder / name).read_bytes() for name in CHECKPOINTS if (folder / name).exists()}


def assert_resumes(folder, uninterrupted):
    """Resumes a run, which then equals the uninterrupted one."""
    resumed = Attempt(folder, *EVERY, "--resume")
    assert resumed.wait() == 0, resumed.errors
    assert_equal_runs(folder, uninterrupted.folder)


@pytest.mark.parametrize(
    "lines",
    [
        ["training.step 8", "open .last.writing.keras"],
        ["shutil.rmtree saved_model/.version-1.writing"],
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


def test_read_only(disk, uninterrupted):
    folder = disk / "run"
    killed = Attempt(folder, *EVERY, moment=Moment(("training.step 3",)))
    assert killed.wait() == -signal.SIGKILL
    before = checkpoints(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for place in (folder, disk / "another"):
        attempt = Attempt(place, *EVERY, "--resume")
        assert attempt.wait() == 2
        assert "Read-only file system" in attempt.error_line()
    assert checkpoints(folder) == before
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert_resumes(folder, uninterrupted)
