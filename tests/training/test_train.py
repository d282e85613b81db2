"""The command line: its statuses, and a full disk."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from tests.support.networks import small_network
from tests.support.small_run import ARGUMENTS
from training import cli, train
from training.fitting import network

ROOT = Path(__file__).parents[2]


def test_command_line_error_is_one_line_and_status_2(tmp_path):
    command = ["training/train.py", "--recipe", "nope", "--run-dir", tmp_path / "run"]
    process = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("error: Unknown recipe 'nope'")
    assert process.stderr.count("\n") == 1


def test_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    """A limit on the size of files stands in for the disk: no checkpoint fits."""
    monkeypatch.setattr(network, "initial_model", small_network.initial_model)
    folder, statuses = tmp_path / "run", []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        cli.run(lambda: train.main([*ARGUMENTS, "--run-dir", str(folder)]), statuses.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert statuses == [2]
    errors = capsys.readouterr().err
    assert errors.count("error:") == 1
    assert "File too large" in errors
    files = {path.name for path in folder.iterdir()}
    assert "config.json" in files
    assert not {"last.keras", "result.json"} & files
    assert not [name for name in files if "writing" in name]


def test_a_backend_of_keras_own_file_is_refused(tmp_path):
    """`~/.keras/keras.json` decides where the environment does not."""
    (tmp_path / "keras.json").write_text('{"backend": "numpy"}')
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    ended = subprocess.run(
        [sys.executable, ROOT / "training" / "train.py", "--dataset", "synthetic"],
        env={**environment, "KERAS_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: Unknown backend 'numpy'")
