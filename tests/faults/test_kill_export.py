"""kill -9 during an export: only verified files have final names, and the next export succeeds."""

import hashlib
import random
import shutil
import signal

import numpy as np
import onnxruntime
import pytest

from export import to_onnx
from tests.faults.attempts import Attempt
from tests.faults.child import Moment
from training.runs import files

pytestmark = [pytest.mark.slow, pytest.mark.faults]
FINAL = {"model.onnx", "verification.json", "preprocessing.json", ".lock"}


def export(run, moment=None, seconds=None):
    """Exports a run until a moment, for some seconds, or to the end; returns the ended attempt."""
    arguments = ["--run", str(run), "--provider", "cpu"]
    attempt = Attempt(run, moment=moment, prepare=(), command=to_onnx.main, arguments=arguments)
    attempt.status = attempt.wait() if seconds is None else attempt.kill_after(seconds)
    return attempt


def assert_nothing_half_written(run):
    names = {path.name for path in (run / "onnx").glob("*")}
    assert not {name for name in names if ".writing" not in name} - FINAL
    if "model.onnx" in names:
        session = onnxruntime.InferenceSession(run / "onnx" / "model.onnx")
        image = np.zeros((2, 32, 32, 3), np.float32)
        assert np.isfinite(session.run(["logits"], {"image": image})[0]).all()
    if "preprocessing.json" in names:
        assert files.read_json(run / "onnx" / "preprocessing.json")["sha256"]
    if "verification.json" in names:
        assert files.read_json(run / "onnx" / "verification.json")["verdict"] == "verified"


def assert_verified(run):
    assert {path.name for path in (run / "onnx").iterdir()} == FINAL
    report = files.read_json(run / "onnx" / "verification.json")
    content = (run / "onnx" / "model.onnx").read_bytes()
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert_nothing_half_written(run)


def test_kills(seed, uninterrupted, tmp_path):
    run = shutil.copytree(uninterrupted.folder, tmp_path / "run")
    for event in ("os.mkdir onnx", "os.rename onnx/model.onnx", "os.rename onnx/verification.json"):
        killed = export(run, Moment((event,)))
        assert killed.status == -signal.SIGKILL, f"{event}: {killed.errors}"
        assert_nothing_half_written(run)
    last = export(run)
    assert last.status == 0, last.errors
    assert_verified(run)

    shutil.rmtree(run / "onnx")
    seconds = random.Random(seed).uniform(0, last.seconds)
    assert export(run, seconds=seconds).status in (0, -signal.SIGKILL)
    assert_nothing_half_written(run)
    again = export(run)
    assert again.status == 0, again.errors
    assert_verified(run)
