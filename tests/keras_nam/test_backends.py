"""The same numbers on the other backends of Keras, each in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_golden_forward(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.run(
        [sys.executable, ROOT / "tests/keras_nam/forward_golden.py"],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert report["backend"] == backend
    assert len(report["errors"]) == 28
    # As on TensorFlow: float32 rounding.
    assert max(report["errors"].values()) < 1e-5
