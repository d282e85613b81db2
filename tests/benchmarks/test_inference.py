"""The benchmark of inference: what it compares, and what it refuses."""

import numpy as np
import pytest

from benchmarks import inference, inference_report
from export import timing
from training import runs
from training.cli import InputError


@pytest.mark.slow
def test_the_command_leaves_its_report(tmp_path, monkeypatch):
    # Within the tests TensorFlow has begun already.
    monkeypatch.setattr(inference_report, "prepare_tensorflow", lambda device, threads: None)
    quick = ["--rounds", "5", "--batch-size", "2"]
    inference.main(["--archs", "r18w4", "r18w4_nam", *quick, "--output", str(tmp_path)])
    report = runs.read_json(tmp_path / "inference.json")
    assert [(row["model"], row["arch"]) for row in report["results"]] == [
        (model, arch)
        for model in (*inference.MODELS, "savedmodel-unfolded")
        for arch in ("r18w4", "r18w4_nam")
    ]
    assert all(row["ratio"]["median"] == 1 for row in report["results"] if row["arch"] == "r18w4")


def test_the_ratio_is_the_median_of_the_rounds():
    seconds = {
        (("a", "onnx"), 8): np.array([1.0, 2.0, 4.0]),
        (("b", "onnx"), 8): np.array([3.0, 2.2, 4.8]),
        (("a", "keras"), 8): np.array([9.0, 9.0, 9.0]),
    }
    first, second = inference_report._rows(seconds, ["a", "b"], "onnx")
    assert first["ratio"]["median"] == 1
    assert second["ratio"]["median"] == 1.2
    assert second["images_per_second"] == pytest.approx(8 / 3, abs=0.01)
    assert second["ratio"]["noisy"] is (second["ratio"]["spread"] > timing.NOISY)


def test_a_gain_is_the_time_without_by_that_with():
    seconds = {
        (("a", "savedmodel-unfolded"), 8): np.array([3.0, 2.2, 4.8]),
        (("a", "savedmodel"), 8): np.array([1.0, 2.0, 4.0]),
        (("a", "onnx"), 8): np.array([9.0, 9.0, 9.0]),
        (("a", "onnx-int8"), 8): np.array([3.0, 3.0, 3.0]),
    }
    folding, int8 = inference_report._gains(seconds, ["a"])
    assert (folding["gain"], folding["median"]) == ("folding", 1.2)
    assert (int8["gain"], int8["median"]) == ("int8", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--archs", "r51"], r"--archs r51: Unknown arch\."),
        (["--rounds", "4"], "--rounds 4: expected 5 or more"),
        (["--batch-size", "0"], "--batch-size 0: expected 1 or more"),
    ],
)
def test_bad_usage(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        inference.main([*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
