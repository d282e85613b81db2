"""The benchmark as a user runs it: the files, the table, and bad usage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from export import benchmark
from export.timing import contenders
from export.timing import report as benchmark_report
from export.timing import rounds as timing
from export.verification.source import open_source
from tests.support.networks import toys
from training.cli import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "run")


@pytest.mark.slow
def test_the_command_writes_its_report(run):
    """In its own process, because it sets TensorFlow's threads before anything else."""
    options = ["--batches", "3,1", "--rounds", "11", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "export/benchmark.py", "--run", run, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (run / "benchmark").iterdir())
    assert names == ["benchmark.json", "benchmark.png"]
    report = json.loads((run / "benchmark" / "benchmark.json").read_text())
    models = list(report["files"])
    assert {"keras", "savedmodel", "onnx", "litert"} <= set(models)
    assert [(row["batch"], row["contender"]) for row in report["results"]] == [
        (size, model) for size in (3, 1) for model in models
    ]
    assert (report["threads"], report["rounds"], report["provider"]) == (1, 11, "cpu")
    assert report["environment"]["versions"]["tensorflow"]
    assert "cores" in report["environment"]["machine"]
    for row in report["results"]:
        milliseconds = row["milliseconds"]
        assert 0 < milliseconds["p10"] <= milliseconds["median"] <= milliseconds["p99"] < 1000
        assert row["images_per_second"] == pytest.approx(
            1e3 * row["batch"] / milliseconds["median"], rel=0.01
        )
        assert row["contender"] != "keras" or row["speedup"]["median"] == 1
    assert "1 thread, 11 rounds" in done.stdout
    assert report["left_out"].keys() == set(benchmark.MODELS) - set(models)
    for name, reason in report["left_out"].items():
        assert f"left out: {name}: {reason}\n" in done.stdout
    assert matplotlib.image.imread(run / "benchmark" / "benchmark.png").std() > 0.05


def test_what_is_measured(run, tmp_path, monkeypatch, capsys):
    """The models that were asked for, once each, on real images."""
    measured, prepared = {}, []

    def measure(models, batches, rounds):
        measured.update(batches)
        return {(name, size): np.ones(rounds) for size in batches for name in models}

    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(benchmark_report, "prepare_tensorflow", lambda *args: prepared.append(args))
    options = ["--run", str(run), "--models", "onnx,onnx", "--batches", "5,2", "--threads", "3"]
    benchmark.main([*options, "--output", str(tmp_path / "else" / "where")])
    report = json.loads((tmp_path / "else" / "where" / "benchmark.json").read_text())
    assert [row["contender"] for row in report["results"]] == 2 * ["keras", "onnx"]
    assert report["left_out"] == {}
    assert "left out" not in capsys.readouterr().out
    images = open_source(run).dataset.test.images
    assert list(measured) == [5, 2]
    for size, batch in measured.items():
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, images[:size])
    assert prepared == [("CPU", 3)]
    with pytest.raises(InputError, match="--batches 501: expected up to 500"):
        benchmark.main(["--run", str(run), "--batches", "501"])
    toys.save_onnx(run / "onnx" / "model.onnx")
    with pytest.raises(InputError, match="different models"):
        benchmark.main(["--run", str(run)])
    assert not (run / "benchmark").exists()


def test_the_table_marks_what_is_noisy(capsys):
    def printed(seconds):
        report = {"run": "runs/some", "provider": "cpu", "threads": 2, "rounds": 10}
        benchmark_report.show({**report, "results": timing.summarize(seconds, "keras")})
        return capsys.readouterr().out

    steady = np.full(10, 0.002)
    text = printed({("keras", 4): steady, ("litert-float16", 4): np.linspace(0.003, 0.005, 10)})
    cells = [line.split() for line in text.splitlines()]
    assert ["keras", "4", "2.00", "2.00", "2.00", "2.00", "2,000", "1.00"] in cells
    noisy = ["litert-float16", "4", "~4.00", "3.20", "4.80", "4.98", "~1,000", "~0.50"]
    assert noisy in cells
    assert "~ noisy: " in text
    assert "~" not in printed({("keras", 4): steady, ("onnx", 4): steady / 2})


def test_the_picture_has_milliseconds_of_one_image_and_comparable_speeds(tmp_path, figures):
    times = {"keras": np.linspace(0.003, 0.005, 10), "onnx": np.full(10, 0.002)}
    calls = {1: 1, 2: 2, 8: 4}  # the larger batch is faster
    seconds = {(name, n): calls[n] * times[name] for n in calls for name in times}
    report = {"run": "runs/some", "provider": "cpu", "threads": 2, "rounds": 10}
    results = timing.summarize(seconds, "keras")
    environment = {"machine": "2 cores, Some CPU"}
    more = {"files": dict.fromkeys(times), "results": results, "environment": environment}
    benchmark_report.draw(report | more, tmp_path / "benchmark.png")
    (figure,) = figures
    one, two, eight = figure.axes
    assert "Some CPU" in figure.get_suptitle()
    assert [axes.get_xlabel().partition(":")[0] for axes in figure.axes] == [
        "milliseconds",
        "images/s",
        "images/s",
    ]
    assert [text.get_text() for text in one.texts] == ["~4.00", "2.00"]
    assert [text.get_text() for text in eight.texts] == ["~500", "1,000"]
    assert [bar.get_width() for bar in one.patches] == pytest.approx([4, 2])
    assert two.get_xlim() == eight.get_xlim() != one.get_xlim()
    assert matplotlib.image.imread(tmp_path / "benchmark.png").std() > 0.05


def test_the_models_of_a_device():
    assert benchmark._models("onnx,keras,onnx", "GPU") == ("keras", "onnx")
    assert benchmark._models(None, "CPU") == benchmark.MODELS
    on_gpu = ("keras", "savedmodel", "onnx", "onnx-float16", "onnx-int8")
    assert benchmark._models(None, "GPU") == on_gpu
    assert {name.partition("-")[0] for name in benchmark.MODELS} == contenders.OPEN.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "onnx,onnx-int4"], "Unknown model 'onnx-int4'.*Did you mean 'onnx-int8'"),
        (["--models", ""], "Unknown model ''"),
        (["--batches", "1,0"], "--batches 1,0: received '0'"),
        (["--batches", "1,,8"], "--batches 1,,8: received ''"),
        (["--rounds", "9"], "--rounds 9: expected 10 or more"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--provider", "gpu"], "Unknown provider 'gpu'; there are cpu, cuda, tensorrt, openvino"),
        (["--provider", "cuda", "--models", "litert"], "litert runs on the CPU, .* on the GPU"),
        (["--provider", "cuda", "--models", "openvino"], "openvino runs on the CPU"),
    ],
)
def test_bad_usage(arguments, message):
    with pytest.raises(InputError, match=message):
        benchmark.main(arguments)
