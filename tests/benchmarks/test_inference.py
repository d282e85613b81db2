"""The benchmark of inference: its figures, and what it refuses."""

import numpy as np
import pytest

from benchmarks import inference
from export.runtime import devices
from export.timing import rounds as timing
from training.cli import InputError
from training.runs import files


@pytest.fixture
def seconds():
    """Of three rounds, with a batch size of 8; OpenVINO is not installed."""
    times = {
        ("r50", "savedmodel"): [1.0, 2.0, 4.0],
        ("r50_nam", "savedmodel"): [3.0, 2.2, 4.8],
        ("r50", "savedmodel-unfolded"): [1.5, 3.0, 4.4],
        ("r50", "onnx"): [9.0, 9.0, 9.0],
        ("r50", "onnx-int8"): [3.0, 3.0, 3.0],
    }
    return {(key, 8): np.array(values) for key, values in times.items()}


def test_ratios_and_gains_are_medians_over_the_rounds(seconds):
    rows = inference.results(seconds, "r50")
    found = {(row["arch"], row["model"]): row for row in rows}
    assert found["r50", "savedmodel"]["ratio"]["median"] == 1
    assert found["r50_nam", "savedmodel"]["ratio"]["median"] == 1.2
    assert found["r50_nam", "savedmodel"]["images_per_second"] == pytest.approx(8 / 3, abs=0.01)
    folding, int8 = inference.gains(seconds)
    assert (folding["gain"], folding["arch"], folding["median"]) == ("folding", "r50", 1.5)
    assert (int8["gain"], int8["arch"], int8["median"]) == ("int8", "r50", 3)


def test_the_command_writes_its_report(seconds, monkeypatch, tmp_path):
    from export.timing import contenders

    opened = {"folded": ["savedmodel", "onnx", "onnx-int8"], "unfolded": ["savedmodel"]}
    left_out = {"openvino": "openvino is not installed"}
    monkeypatch.setattr(devices, "prepare_tensorflow", lambda *args: None)
    monkeypatch.setattr(inference, "exported", lambda folder, arch: ("folded", "unfolded"))
    monkeypatch.setattr(
        contenders,
        "open_contenders",
        lambda source, *_: (
            [contenders.Contender(name, None, None) for name in opened[source]],
            left_out,
        ),
    )

    def measure(calls, batches, rounds):
        assert (list(batches), rounds) == ([8], 5)
        assert seconds.keys() == {(key, 8) for key in calls}
        return seconds

    del seconds[("r50_nam", "savedmodel"), 8]
    monkeypatch.setattr(timing, "measure", measure)
    arguments = ["--archs", "r50", "--batch-size", "8", "--rounds", "5"]
    inference.main([*arguments, "--output", str(tmp_path)])
    report = files.read_json(tmp_path / "inference.json")
    assert report["left_out"] == left_out
    assert [row["gain"] for row in report["gains"]] == ["folding", "int8"]
    page = (tmp_path / "inference.md").read_text()
    assert "Left out: openvino: openvino is not installed" in page
    assert "| savedmodel-unfolded | r50 | ~3,000.0 |" in page
    assert "3.00 (3.00–3.00) |" in page


@pytest.mark.slow
def test_the_command_measures_real_exports(tmp_path, monkeypatch):
    # TensorFlow runs already within the tests.
    monkeypatch.setattr(devices, "prepare_tensorflow", lambda device, threads: None)
    quick = ["--rounds", "5", "--batch-size", "2"]
    inference.main(["--archs", "r18w4", "r18w4_nam", *quick, "--output", str(tmp_path)])
    report = files.read_json(tmp_path / "inference.json")
    models = [*inference.MODELS, inference.UNFOLDED]
    assert sorted((row["model"], row["arch"]) for row in report["results"]) == sorted(
        (model, arch)
        for model in models
        if model not in report["left_out"]
        for arch in ("r18w4", "r18w4_nam")
    )
    assert all(row["ratio"]["median"] == 1 for row in report["results"] if row["arch"] == "r18w4")


def test_an_unknown_arch(tmp_path):
    with pytest.raises(InputError, match=r"--archs r51: Unknown arch\."):
        inference.main(["--archs", "r51", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
