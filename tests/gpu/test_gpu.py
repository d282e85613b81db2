"""What only a GPU can show: `make test-gpu`, which runs the golden tests beside these."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_nam
from training.runs import files

ROOT = Path(__file__).parents[2]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
pytestmark = pytest.mark.gpu


def run(*command):
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    print(ended.stdout)  # for `pytest -s`
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of r18w16_nam on the synthetic set, with the settings that a GPU gets by default."""
    folder = tmp_path_factory.mktemp("gpu") / "run"
    options = ["--arch", "r18w16_nam", "--recipe", "fast", "--dataset", "synthetic"]
    run("training/train.py", *options, "--epochs", "12", "--run-dir", folder)
    return folder


def test_the_gate_runs_on_the_gpu():
    outputs = keras_nam.NAMChannelAttention()(np.ones((2, 4, 4, 8), "float32"), training=True)
    assert "GPU:0" in outputs.device
    assert keras.backend.backend() == "tensorflow"


def test_a_mixed_precision_training_learns(trained):
    """Ten classes: chance is 10%."""
    assert files.read_json(trained / "config.json")["precision"] == "mixed_float16"
    losses = [row["loss"] for row in files.read_history(trained / "history.csv")]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    assert files.read_json(trained / "result.json")["top1"] > 0.5


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_onnx_is_verified_on_cuda(trained, tmp_path, precision):
    options = ["--run", trained, "--output", tmp_path, "--precision", precision]
    run("export/to_onnx.py", *options, "--provider", "cuda")
    (report,) = (json.loads(path.read_text()) for path in tmp_path.glob("verification*.json"))
    assert report["verdict"] == "verified"
    assert report["provider"] == {"asked": "cuda", "got": CUDA}
    nodes = report["nodes"]
    print(f"nodes by provider, {precision}: {nodes}")
    # Shape arithmetic may stay on the CPU; convolutions may not.
    assert nodes[CUDA] > 10 * nodes.get(CPU, 0)


def test_the_training_step_side_by_side(tmp_path):
    options = ["--arch", "r18_nam", "--rounds", "5", "--output", tmp_path]
    run("benchmarks/train_step.py", *options, "--device", "gpu")
    report = json.loads((tmp_path / "train_step.json").read_text())
    assert report["device"] == "GPU"
    assert {row["contender"] for row in report["results"]} >= {"ours", "plain", "floor"}
