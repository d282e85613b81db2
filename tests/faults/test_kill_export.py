"""kill -9 at any moment of an export: no unverified file has a good name, and the next one ends."""

import hashlib
import random
import shutil
import signal

import numpy as np
import onnxruntime
import pytest
from attempts import Attempt
from child import Moment

from export import to_onnx
from training import runs

pytestmark = [pytest.mark.slow, pytest.mark.faults]
RANDOM = 4
AIMED = [
    ["os.mkdir onnx"],
    ["open onnx/.model.writing.onnx"],
    ["os.rename onnx/model.onnx"],
    ["open onnx/.verification.writing.json"],
    ["os.rename onnx/verification.json"],
]


def export(run, moment=None, seconds=None):
    """Exports a run, killed at a moment or after some seconds; returns the attempt, ended."""
    arguments = ["--run", str(run), "--provider", "cpu"]
    attempt = Attempt(run, moment=moment, prepare=(), command=to_onnx.main, arguments=arguments)
    attempt.status = attempt.wait() if seconds is None else attempt.kill_after(seconds)
    return attempt


def assert_nothing_half_written(run):
    names = {path.name for path in (run / "onnx").glob("*")} - {".lock"}
    assert names <= {"model.onnx", "verification.json", ".model.writing.onnx",
                     ".verification.writing.json"}  # fmt: skip
    if "model.onnx" in names:
        session = onnxruntime.InferenceSession(run / "onnx" / "model.onnx")
        image = np.zeros((2, 32, 32, 3), np.float32)
        assert np.isfinite(session.run(["logits"], {"image": image})[0]).all()
    if "verification.json" in names:
        assert runs.read_json(run / "onnx" / "verification.json")["verdict"] == "verified"


def assert_verified(run):
    names = {path.name for path in (run / "onnx").iterdir()}
    assert names == {".lock", "model.onnx", "verification.json"}
    report = runs.read_json(run / "onnx" / "verification.json")
    content = (run / "onnx" / "model.onnx").read_bytes()
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["verdict"] == "verified"
    assert_nothing_half_written(run)


def test_kills(seed, uninterrupted, tmp_path):
    run = shutil.copytree(uninterrupted.folder, tmp_path / "run")
    for lines in AIMED:
        assert export(run, Moment(tuple(lines))).status == -signal.SIGKILL, lines
        assert_nothing_half_written(run)
    last = export(run)
    assert last.status == 0, last.errors
    assert_verified(run)

    rng = random.Random(seed)
    for _ in range(RANDOM):
        shutil.rmtree(run / "onnx")
        assert export(run, seconds=rng.uniform(0, last.seconds)).status in (0, -signal.SIGKILL)
        assert_nothing_half_written(run)
        again = export(run)
        assert again.status == 0, again.errors
        assert_verified(run)
