"""The benchmark of the training step: its figures, its page, what it refuses."""

import os

import numpy as np
import pytest

from benchmarks import train_step
from training.cli import FailedError, InputError
from training.runs import files


@pytest.fixture
def seconds():
    """Of three rounds; the machine was twice as slow in the second."""
    times = {"ours": 2.0, "plain": 1.6, "PyTorch, torch.compile": 2.2, "floor": 1.0}
    return {(name, 64): time * np.array([1.0, 2.0, 1.0]) for name, time in times.items()}


def first_seconds(seconds):
    return {name: 90.0 if "compile" in name else 2.0 for name, _ in seconds}


def test_each_is_compared_with_ours_in_the_same_round(seconds):
    rows = {row["contender"]: row for row in train_step.results(seconds, first_seconds(seconds))}
    assert {name: row["ratio"]["median"] for name, row in rows.items()} == {
        **{"ours": 1, "plain": 0.8, "PyTorch, torch.compile": 1.1, "floor": 0.5}
    }
    assert rows["plain"]["images_per_second"] == 64 / 1.6
    assert rows["plain"]["milliseconds"]["median"] == 1600
    assert rows["PyTorch, torch.compile"]["first_seconds"] == 90
    ratios = {name: ratio["median"] for name, ratio in train_step.ratios(seconds).items()}
    assert ratios == {"ours / plain": 1.25, "floor / ours": 0.5, "floor / plain": 0.625}


def test_the_page(seconds):
    measured = {
        **{"command": "python benchmarks/train_step.py", "arch": "r50_nam", "batch_size": 64},
        **{"dtype": "float32", "device": "CPU", "threads": 1, "floor_flops": 5 * 10**11},
        "left_out": {"PyTorch": "torch is not installed"},
        "results": train_step.results(seconds, first_seconds(seconds)),
        "ratios": train_step.ratios(seconds),
        "memory": {"r50_nam": 21_000_000, "r50": 20_000_000},
        "environment": files.environment(["keras"]),
    }
    page = "\n".join(train_step.page(measured))
    lines = page.splitlines()
    assert "| ours | ~2,000.0 (2,000.0–3,600.0) | ~32.0 | 1.000 (1.000–1.000) | 2.0 |" in lines
    assert any("torch.compile" in line and line.endswith("| 90.0 |") for line in lines)
    assert "| floor / ours | 0.500 (0.500–0.500) |" in lines
    assert "| r50_nam | 21.00 |" in lines
    assert "500.0 GFLOP per step, 500 GFLOP/s" in page
    assert "Left out: PyTorch: torch is not installed" in page
    assert "~ noisy" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "r51_nam"], r"--arch r51_nam: Unknown arch\."),
        (["--arch", "r50"], "--arch r50 has no attention: expected .* r50_nam"),
        (["--arch", "r50_se"], "--arch r50_se has se: expected"),
        (["--rounds", "4"], "--rounds 4: expected 5"),
        (["--device", "gpus"], "Unknown device 'gpus'.*Did you mean 'gpu'"),
    ],
)
def test_bad_usage(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train_step.main([*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def peak_of(arch, batch_size, device, threads):
    """Replaces a training, in another process."""
    if arch == "r152":
        os.kill(os.getpid(), 9)
    return {"r50": 6400, "r50_nam": 7040}[arch]


def test_the_memory_is_per_image_and_a_killed_process_an_error(monkeypatch):
    monkeypatch.setattr(train_step, "peak_bytes", peak_of)
    memory = train_step.peak_memory(["r50_nam", "r50"], 64, "CPU", 2)
    assert memory == {"r50_nam": 110, "r50": 100}
    with pytest.raises(FailedError, match=r"memory of r152 .*smaller --batch-size"):
        train_step.peak_memory(["r152"], 64, "CPU", 2)


@pytest.mark.slow
def test_what_the_backward_pass_needs_is_in_the_memory():
    peaks = train_step.peak_memory(["r18w8"], 128, "CPU", 1)
    # The inputs of stage 1's four convolutions and four normalizations, 8 * 32² float32 each.
    # What the allocator holds beside them differs from machine to machine.
    assert peaks["r18w8"] > 8 * 8 * 32**2 * 4
