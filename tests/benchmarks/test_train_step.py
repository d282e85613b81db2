"""The benchmark of the training step: its numbers, its tables, what it refuses."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from benchmarks import train_step, train_step_memory, train_step_report, train_step_tables
from training import runs
from training.cli import FailedError, InputError

ROOT = Path(__file__).parents[2]
NAMES = ("ours", "plain", "floor")


@pytest.fixture
def seconds():
    """Of three rounds, the second of which was on a machine twice as slow."""
    drift = np.array([1.0, 2.0, 1.0])
    times = zip(NAMES, (2.0, 1.6, 1.0), strict=True)
    return {(name, 64): time * drift for name, time in times}


@pytest.fixture
def report(seconds):
    return {
        "command": "python benchmarks/train_step.py",
        "arch": "r50_nam",
        "batch_size": 64,
        "dtype": "float32",
        "device": "CPU",
        "threads": 1,
        "rounds": 3,
        "noisy_above": 0.1,
        "floor_flops": 5 * 10**11,
        "left_out": {"PyTorch": "torch is not installed"},
        "results": train_step_report.results(seconds),
        "ratios": train_step_report.ratios(seconds),
        "memory": {"ours": 21_000_000, "plain": 20_000_000, "ratio": 1.05},
        "profile": [{"operation": "Conv2D", "milliseconds": 700.0, "share": 0.35}],
        "environment": runs.environment(train_step_report.PACKAGES),
    }


def shown(report):
    console = Console(file=io.StringIO(), width=200)
    train_step_tables.show(report, console)
    return console.file.getvalue()


def test_each_is_compared_with_ours_in_the_same_round(seconds):
    rows = {row["contender"]: row for row in train_step_report.results(seconds)}
    assert list(rows) == list(NAMES)
    assert {name: row["ratio"]["median"] for name, row in rows.items()} == {
        "ours": 1,
        "plain": 0.8,
        "floor": 0.5,
    }
    assert rows["plain"]["images_per_second"] == 64 / 1.6
    assert rows["plain"]["milliseconds"]["median"] == 1600
    assert rows["plain"]["milliseconds"]["noisy"]
    assert not rows["plain"]["ratio"]["noisy"]


def test_the_cost_of_nam_and_the_share_of_the_floor(seconds):
    ratios = train_step_report.ratios(seconds)
    assert {name: ratio["median"] for name, ratio in ratios.items()} == {
        "ours / plain": 1.25,
        "floor / ours": 0.5,
        "floor / plain": 0.625,
    }
    seconds["ours", 64] = np.array([2.0, 4.0, 2.4])
    ratios = train_step_report.ratios(seconds)
    assert ratios["ours / plain"]["noisy"]
    assert not ratios["floor / plain"]["noisy"]


def test_the_tables(report):
    text = shown(report)
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "ours ~2,000.0 ~32.0 1.000 1.000 1.000" in lines
    assert "plain ~1,600.0 ~40.0 0.800 0.800 0.800" in lines
    assert "floor / ours 0.500 0.500 0.500" in lines
    assert "ours 21.00 1.050" in lines
    assert "Conv2D 700.00 35.0%" in lines
    assert "500.0 GFLOP a step at ~500 GFLOP/s" in text
    assert "left out: PyTorch: torch is not installed" in text
    assert "`python benchmarks/train_step.py`" in text
    assert "r50_nam, batch of 64, float32, CPU, 1 thread, 3 rounds; " in text
    assert f"keras {report['environment']['versions']['keras']}" in text
    assert "more than 10% of the median apart" in text


def test_nothing_is_marked_where_nothing_is_noisy(report):
    for row in report["results"]:
        row["milliseconds"]["noisy"] = False
    assert "~" not in shown(report)


def test_what_was_not_measured_is_said(report):
    text = shown({**report, "memory": None, "profile": None})
    assert "not measured: this system does not tell it" in text
    assert "not measured: TensorFlow's profile" in text


def test_the_picture(report, tmp_path):
    train_step_tables.draw(report, tmp_path / "train_step.png")
    assert matplotlib.image.imread(tmp_path / "train_step.png").std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "r51_nam"], r"--arch r51_nam: Unknown arch\."),
        (["--arch", "r50"], "--arch r50 has no attention: expected <backbone>_nam.* r50_nam"),
        (["--arch", "r50_se"], "--arch r50_se has se: expected <backbone>_nam"),
        (["--batch-size", "0"], "--batch-size 0: expected 1 or more"),
        (["--rounds", "4"], "--rounds 4: expected 5 or more"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--device", "gpus"], "Unknown device 'gpus'.*Did you mean 'gpu'"),
    ],
)
def test_bad_usage(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(train_step_report, "prepare_tensorflow", lambda *args: pytest.fail("ran"))
    with pytest.raises(InputError, match=message):
        train_step.main([*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_another_setting_of_keras_is_refused(monkeypatch):
    monkeypatch.setattr(train_step_report.keras.config, "backend", lambda: "jax")
    with pytest.raises(InputError, match="the backend jax, channels_last: expected tensorflow"):
        train_step_report.check_keras()


def test_the_process_refuses_without_a_traceback():
    process = subprocess.run(
        [sys.executable, "benchmarks/train_step.py", "--batch-size", "-3"],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    expected = (2, "error: --batch-size -3: expected 1 or more\n")
    assert (process.returncode, process.stderr) == expected


def test_the_memory_is_that_of_an_image(monkeypatch):
    peaks = {"r50": 6400, "r50_nam": 7040}

    def run(command, **options):
        return SimpleNamespace(returncode=0, stdout=f"said\n{peaks[command[2]]}\n", stderr="")

    monkeypatch.setattr(train_step_memory.subprocess, "run", run)
    args = SimpleNamespace(arch="r50_nam", batch_size=64, threads=2)
    memory = train_step_report._memory(args, "CPU")
    assert memory == {"ours": 110, "plain": 100, "ratio": 1.1}


def test_memory_that_does_not_suffice_is_said(monkeypatch):
    killed = SimpleNamespace(returncode=-9, stdout="", stderr="")
    monkeypatch.setattr(train_step_memory.subprocess, "run", lambda *args, **options: killed)
    with pytest.raises(FailedError, match=r"r50 was not measured: status -9\. A smaller --batch"):
        train_step_memory.measure(["r50"], 64, "CPU", 2)


@pytest.mark.slow
def test_what_is_kept_for_the_backward_pass_is_in_the_memory():
    peaks = train_step_memory.measure(["r18w8"], 128, "CPU", 1)
    # The inputs of stage 1's four convolutions and four normalizations, 8 * 32² float32 each.
    # What the allocator holds beside them differs from machine to machine.
    assert peaks["r18w8"] > 8 * 8 * 32**2 * 4
