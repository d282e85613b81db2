"""The command line, in processes of its own: statuses, signals, a full disk, two devices."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.small_run import ARGUMENTS
from training.runs import files as runs

ROOT = Path(__file__).parents[2]


def command(*arguments, timeout=120):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_command_line_error_is_one_line_and_status_2(tmp_path):
    process = command("training/train.py", "--recipe", "nope", "--run-dir", tmp_path / "run")
    assert process.returncode == 2
    assert process.stderr.startswith("error: Unknown recipe 'nope'")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["training.train", "training.evaluate"])
def test_help_imports_nothing_heavy(module):
    code = f"import sys, {module} as m; m.parser().format_help(); print(*sys.modules)"
    modules = set(command("-c", code).stdout.split())
    assert module in modules
    assert not modules & {"tensorflow", "keras", "numpy", "matplotlib"}


def test_mirrored_over_two_devices(tmp_path):
    """Two logical CPUs; each replica normalizes by its own half of the batch."""
    code = f"""
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from training import train
train.main({[*ARGUMENTS, "--run-dir", str(tmp_path / "run"), "--strategy", "mirrored"]})
"""
    process = command("-c", code, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "mirrored over 2 device(s)" in process.stdout
    assert runs.is_finished(tmp_path / "run")


def test_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands in for the disk: no checkpoint fits."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
from training import cli, train
cli.run(lambda: train.main({[*ARGUMENTS, "--run-dir", str(tmp_path / "run")]}))
"""
    process = command("-c", code)
    assert process.returncode == 2, process.stderr[-2000:]
    errors = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert "Traceback" not in process.stderr
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {"last.keras", "result.json"} & files
    assert not [name for name in files if "writing" in name]


def test_ctrl_c_says_how_to_continue(tmp_path):
    arguments = ["training/train.py", *ARGUMENTS, "--epochs", "500", "--run-dir", tmp_path / "run"]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.keras").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume continues" in output
    assert "Traceback" not in errors
    assert not [p for p in (tmp_path / "run").iterdir() if "writing" in p.name]
