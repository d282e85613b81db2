"""Which of Keras' backends a command takes, and what it says of another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("backend", "command", "expected"),
    [
        ("torch", "training/train.py", "Unknown backend 'torch'; there are tensorflow, jax"),
        ("tensorflow", "training/train.py --strategy multihost", "set KERAS_BACKEND=jax"),
        ("jax", "training/train.py --strategy mirrored", "mirrored is TensorFlow's"),
        ("jax", "export/to_onnx.py --run {folder}", "exported on TensorFlow: unset it."),
    ],
)
def test_another_backend_is_one_line(tmp_path, backend, command, expected):
    ended = subprocess.run(
        [sys.executable, *command.format(folder=tmp_path).split()],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.returncode == 2, ended.stderr[-2000:]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in ended.stderr
