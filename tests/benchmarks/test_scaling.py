"""The benchmark of scaling: its arithmetic, its report, what it refuses."""

import io
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from benchmarks import (
    scaling,
    scaling_measurement,
    scaling_model,
    scaling_report,
    scaling_tables,
)
from export import timing
from training import runs
from training.cli import InputError

ROOT = Path(__file__).parents[2]
TRAFFIC = {"parameters": 1000, "normalizations": 2, "all_reduces": [[8], [16, 16], [8], [4000]]}
ASSUMED = SimpleNamespace(gpu_tflops=60.0, critical_batch=1000.0)


@pytest.fixture
def turns():
    """Of three rounds, the second of which was on a machine twice as slow; batches of 8."""
    seconds = {
        "alone": [1.0, 1.0],
        "apart": [1.25, 1.25],
        "weak": 1.6,
        "quiet": 1.3,
        "strong": 0.8,
        "weak all-reduces": 0.25,
        "quiet all-reduces": 0.02,
        "gradients": 0.08,
        "stream": 0.004,
    }
    return [
        {name: (np.array(value) * drift).tolist() for name, value in seconds.items()}
        for drift in (1, 2, 1)
    ]


@pytest.fixture
def measured(turns):
    return {
        "command": "python benchmarks/scaling.py",
        "arch": "r18w4_nam",
        "batch_size": 8,
        "steps": 4,
        "cores": [0, 1],
        "turns": turns,
        "traffic": TRAFFIC,
        "environment": runs.environment(scaling_report.PACKAGES),
        "date": "2000-01-01T00:00:00+00:00",
    }


@pytest.fixture
def report(measured, monkeypatch):
    """Without the large network, which takes seconds to make."""
    monkeypatch.setattr(scaling_report, "LARGE", "r18w8_nam")
    return {**measured, "noisy_above": 0.1, **scaling_report.computed(measured, ASSUMED)}


def shown(report):
    console = Console(file=io.StringIO(), width=scaling_report.WIDTH)
    scaling_tables.show(report, console)
    return console.file.getvalue()


def test_the_efficiency_is_that_of_a_round(turns):
    rows = {row["contender"]: row for row in scaling_measurement.results(turns, 8)}
    assert {name: row["efficiency"]["median"] for name, row in rows.items()} == {
        "one": 1,
        "apart": 0.8,
        "weak": 0.625,
        "quiet": round(1 / 1.3, 4),
        "strong": 0.625,
    }
    assert rows["one"]["images_per_second"]["median"] == 8
    assert rows["weak"]["images_per_second"]["median"] == 10
    assert rows["strong"]["images_per_second"]["median"] == 10
    assert rows["weak"]["images_per_second"]["noisy"]
    assert not rows["weak"]["efficiency"]["noisy"]


def test_one_process_is_the_mean_of_the_cores(turns):
    for turn in turns:
        turn["alone"] = [0.5, 1.0]  # 16 and 8 images/s
    one, *_ = scaling_measurement.results(turns, 8)
    assert one["images_per_second"]["median"] == 12
    assert scaling_measurement.step_parts(turns, "weak")[0]["median"] == pytest.approx(1e3 / 1.5)


def test_the_parts_are_the_step(turns):
    parts = scaling_measurement.step_parts(turns, "weak")
    assert [part["median"] for part in parts] == [1000, 250, 250, 100, 1600]
    assert [part["share"] for part in parts] == [0.625, 0.1562, 0.1562, 0.0625, 1]
    quiet = scaling_measurement.step_parts(turns, "quiet")
    assert [part["median"] for part in quiet] == [1000, 250, 20, 30, 1300]
    assert scaling_measurement.gradients(turns)["share"] == 0.05
    assert scaling_measurement.stream(turns, 8)["share"] == 0.004
    assert scaling_measurement.stream(turns, 8)["images_per_second"]["median"] == 2000


def test_the_all_reduces_of_a_program():
    program = """
      %a = f32[4]{0} all-reduce(%x), channel_id=1
      %b = (f32[8]{0}, f32[3,3,4]{2,1,0}, /*index=2*/f32[]) all-reduce(%x, %y, %z), channel_id=2
      %c = f32[8]{0} add(%a, %b)
    """
    assert scaling_measurement.all_reduces(program) == [[16], [32, 144, 4]]


def test_what_the_model_is_computed_for(report):
    core, core_waiting, gpu, *_, large = report["assumed"]["trainings"]
    assert core["image_seconds"] == 1 / 8
    assert (core["waits"], core_waiting["waits"]) == (0, round(3 * 28 / 2))
    # 44,862 of ten classes' network, and 90 classes' weights and biases more.
    assert core["gradient_bytes"] == gpu["gradient_bytes"] == 4 * (44_862 + 90 * 33)
    assert large["name"] == "r18w8_nam, assumed GPU"
    assert large["image_seconds"] > 3 * gpu["image_seconds"]
    assert len(report["model"]) == 6 * len(scaling_model.NETWORKS) * 2


def test_the_tables(report):
    lines = [" ".join(line.replace("|", " ").split()) for line in shown(report).splitlines()]
    assert "two together, the same batch for each (weak) ~10.0 6.0 10.0 62.5% 62.5% 62.5%" in lines
    assert "the all-reduces, alone 250.0 250.0 450.0 15.6% 20.0 20.0 36.0 1.5%" in lines, "\n".join(
        lines
    )
    text = "\n".join(lines)
    assert "4 all-reduces of 5 arrays, 4.0 kB: 4.0 kB of gradients (1,000 trainable" in text
    assert "The gradients in one array take 80.0 ms (80.0–144.0), 5.0% of a step" in text
    assert "assumed to reach 60 TFLOP/s" in text
    assert "512 4,096 12 101.3" in lines


def test_the_picture(report, tmp_path):
    scaling_report.draw(report, tmp_path / "scaling.png")
    assert matplotlib.image.imread(tmp_path / "scaling.png").std() > 0.05


def test_earlier_measurements_are_taken(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling_report, "LARGE", "r18w4_nam")
    monkeypatch.setattr(scaling_measurement, "measure", lambda *args: pytest.fail("measured"))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    runs.write_json(tmp_path / "old.json", measured)
    new = tmp_path / "new"
    options = ["--measured", str(tmp_path / "old.json"), "--gpu-tflops", "30"]
    scaling.main([*options, "--output", str(new), "--plot", str(new / "docs" / "plot.png")])
    assert {path.name for path in new.iterdir()} == {"scaling.json", "scaling.md", "docs"}
    again = runs.read_json(new / "scaling.json")
    assert measured.items() <= again.items()
    assert again["assumed"]["gpu_tflops"] == 30
    assert "30 TFLOP/s" in (new / "scaling.md").read_text()
    assert "30 TFLOP/s" in capsys.readouterr().out.replace("\n", " ")


def test_the_page_has_the_results():
    results = ROOT / "benchmarks" / "results" / "scaling.json"
    if not results.exists():
        pytest.skip("scaling.py has not been run for the results")
    page = (ROOT / "docs" / "scaling.md").read_text()
    for row in runs.read_json(results)["results"]:
        speed, part = row["images_per_second"], row["efficiency"]
        assert f"{timing.mark(speed)}{speed['median']:,.1f} |" in page
        if row["contender"] != "one":
            low, high = (f"{100 * part[key]:.0f}" for key in ("p10", "p90"))
            assert f"{timing.mark(part)}{part['median']:.0%} ({low}–{high})" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "r51_nam"], r"--arch r51_nam: Unknown arch\."),
        (["--batch-size", "0"], "--batch-size 0: expected 2 or more"),
        (["--batch-size", "7"], "--batch-size 7: expected an even number up to 1000"),
        (["--batch-size", "1002"], "--batch-size 1002: expected an even number up to 1000"),
        (["--rounds", "2"], "--rounds 2: expected 3 or more"),
        (["--steps", "1"], "--steps 1: expected 2 or more"),
        (["--gpu-tflops", "0"], "--gpu-tflops 0.0: expected a number above 0"),
        (["--critical-batch", "nan"], "--critical-batch nan: expected a number above 0"),
        (["--measured", "missing.json"], "missing.json is missing"),
        (["--measured", "benchmarks/results/train_step.json"], "train_step.json has no steps"),
    ],
)
def test_bad_usage(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(scaling_measurement, "measure", lambda *args: pytest.fail("measured"))
    outputs = ["--output", str(tmp_path / "out"), "--plot", str(tmp_path / "out" / "plot.png")]
    with pytest.raises(InputError, match=message):
        scaling.main([*arguments, *outputs])
    assert not (tmp_path / "out").exists()
