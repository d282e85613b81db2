"""Faults of two processes that train as one: both end, with one line that says why."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.networks import small_network
from tests.support.small_run import history
from training import train
from training.fitting import network

ROOT = Path(__file__).parents[2]
OPTIONS = ["--arch", "r18w4", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
OPTIONS += ["--batch-size", "32", "--epochs", "5", "--steps-per-epoch", "30"]
OPTIONS += ["--learning-rate", "0.01"]
pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def launch(tmp_path):
    """Returns a function that starts two processes, or resumes them."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    options = [*OPTIONS, "--run-dir", str(tmp_path / "run"), "--resume"]
    command = [sys.executable, "-c", small_network.LAUNCH, small_network.__file__]
    started = []

    def start():
        process = subprocess.Popen(
            [*command, "--processes", "2", "--", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate()


def read_until(process, text):
    """Reads the output up to a line with the text."""
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before {text!r}: {process.stderr.read()[-2000:]}")


def children_of(process):
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def ended(process):
    """Returns the status, the output and the errors of a launch, which leaves no process."""
    children = children_of(process)
    output, errors = process.communicate(timeout=600)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in errors
    return process.returncode, output, errors


def test_sigterm_and_the_loss_of_either_process(launch, tmp_path, monkeypatch):
    """One run: SIGTERM in epoch 2, each process killed once, then the end of an intact run."""
    process = launch()
    read_until(process, "1/5 loss")
    process.terminate()
    status, output, errors = ended(process)
    assert (status, errors) == (143, "terminated\n")
    kept = [line for line in output.splitlines() if "terminated:" in line]
    assert len(kept) == 2
    assert kept[0].split("terminated:")[1] == kept[1].split("terminated:")[1]

    for victim, epoch in ((1, 3), (0, 4)):
        process = launch()
        read_until(process, f"{epoch - 1}/5 loss")
        os.kill(children_of(process)[victim], signal.SIGKILL)
        status, _, errors = ended(process)
        assert status == 1
        assert errors.startswith(f"error: process {victim} died of SIGKILL")
        assert errors.count("\n") == 1

    status, _, errors = ended(launch())
    assert (status, errors) == (0, "")
    monkeypatch.setattr(network, "initial_model", small_network.initial_model)
    train.main([*OPTIONS, "--run-dir", str(tmp_path / "one")])
    for ours, theirs in zip(history(tmp_path / "run"), history(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
