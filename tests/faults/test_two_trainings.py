"""Two trainings on one run folder: a lock refuses the second, and ends with the first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attempts import ARGUMENTS, Attempt, assert_equal_runs
from child import Moment

pytestmark = [pytest.mark.slow, pytest.mark.faults]
ROOT = Path(__file__).parents[2]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_is_refused_until_the_first_is_killed(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    first = Attempt(folder, moment=Moment(("training.step 6",), signal=signal.SIGSTOP))
    first.wait_until_stopped()
    before = contents(folder)
    command = [sys.executable, "training/train.py", *ARGUMENTS, "--run-dir", str(folder)]
    second = subprocess.run(
        [*command, "--resume"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert second.returncode == 2, second.stderr
    errors = [line for line in second.stderr.splitlines() if line.startswith("error:")]
    assert errors == [
        f"error: Another training writes into {folder}. Wait for its end, or give another "
        "--run-dir."
    ]
    assert "Traceback" not in second.stderr
    assert contents(folder) == before

    assert first.kill_after(0) == -signal.SIGKILL
    third = Attempt(folder, "--resume")
    assert third.wait() == 0, third.errors
    assert third.steps[0] == 5
    assert_equal_runs(folder, uninterrupted.folder)


@pytest.mark.parametrize("moment", ["open .config.writing.json", "os.rename config.json"])
def test_the_second_is_refused_before_the_first_has_its_settings(tmp_path, moment):
    first = Attempt(tmp_path / "run", moment=Moment((moment,), signal=signal.SIGSTOP))
    first.wait_until_stopped()
    before = contents(tmp_path / "run")
    second = Attempt(tmp_path / "run", "--seed", "1")
    assert second.wait() == 2
    assert "Another training writes into" in second.error_line()
    assert contents(tmp_path / "run") == before
    first.kill_after(0)


def test_the_second_is_refused_without_resume_too(tmp_path):
    moment = Moment(("training.step 1",), signal=signal.SIGSTOP)
    first = Attempt(tmp_path / "run", moment=moment)
    first.wait_until_stopped()
    second = Attempt(tmp_path / "run")
    assert second.wait() == 2
    assert "exists. Continue it with --resume" in second.error_line()
    first.kill_after(0)
