"""Each strategy trains as one device does: the same losses, and a run folder like any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.runs import files

ROOT = Path(__file__).parents[3]
# Small steps: rounding grows from step to step, ten times faster at ten times the rate.
ARGUMENTS = ["--arch", "r18w8_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "64", "--epochs", "10", "--steps-per-epoch", "1"]
ARGUMENTS += ["--learning-rate", "0.001"]
TWO_DEVICES = """
import sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from training import cli, train
cli.run(lambda: train.main(sys.argv[1:]))
"""
pytestmark = pytest.mark.slow


def run(*command, **environment):
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-3000:]
    return ended.stdout


def losses(folder):
    return [row["loss"] for row in files.read_history(folder / "history.csv")]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies") / "one"
    run("training/train.py", *ARGUMENTS, "--run-dir", folder)
    return folder


def test_mirrored_and_synchronized_is_one_device(one_device, tmp_path):
    strategy = ("--strategy", "mirrored", "--sync-bn")
    said = run("-c", TWO_DEVICES, *ARGUMENTS, *strategy, "--run-dir", tmp_path / "run")
    assert "mirrored over 2 device(s)" in said
    assert losses(tmp_path / "run") == pytest.approx(losses(one_device), abs=1e-4)


def test_jax_is_tensorflow(one_device, tmp_path):
    """The same seed: the same first weights, images and losses; and a SavedModel at the end."""
    folder = tmp_path / "run"
    run("training/train.py", *ARGUMENTS, "--run-dir", folder, KERAS_BACKEND="jax")
    assert losses(folder) == pytest.approx(losses(one_device), abs=1e-4)
    ours, theirs = (files.read_json(f / "result.json") for f in (folder, one_device))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert (folder / "saved_model" / "1" / "saved_model.pb").is_file()
    assert files.read_json(folder / "config.json")["environment"]["backend"] == "jax"


def test_two_processes_are_one_device(one_device, tmp_path):
    folder = tmp_path / "run"
    train = (*ARGUMENTS, "--run-dir", folder)
    said = run("training/launch.py", "--processes", "2", "--", *train)
    assert "process 0 of 2, 2 device(s) in all" in said
    assert losses(folder) == pytest.approx(losses(one_device), abs=1e-4)
    assert files.is_finished(folder)
    assert files.read_json(folder / "config.json")["environment"]["processes"] == 2


def test_another_number_of_processes_resumes(one_device, tmp_path):
    """Two processes to a checkpoint in the middle of an epoch; one from there to its end."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    arguments = [*ARGUMENTS, "--epochs", "2", "--steps-per-epoch", "4"]
    run("training/train.py", *arguments, "--run-dir", whole)
    more = ("--checkpoint-every", "2", "--run-dir", folder)
    run("training/launch.py", "--processes", "2", "--", *arguments, *more)
    for name in ("result.json", "last.keras"):  # previous.keras is of step 6
        (folder / name).unlink()
    said = run("training/train.py", *arguments, "--run-dir", folder, "--resume")
    assert "epochs 2–2" in said
    assert losses(folder) == pytest.approx(losses(whole), abs=1e-4)
