"""The command from the grid to the report, with a stand-in for the trainings."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stand_in_train import calls, started
from training.cli import FailedError, InputError
from training.comparing import grid, report
from training.runs import files

ROOT = Path(__file__).parents[3]
DRAW = report.draw  # which the fixture replaces


def test_whole_comparison(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", DRAW)
    found = run(seeds="0,1,2")
    assert started(tmp_path) == [f"{a}-s{s}" for s in (0, 1, 2) for a in ("r18w4", "r18w4_nam")]
    plain, nam = found["variants"]
    assert plain["difference"] is None
    assert nam["n"] == 3
    assert nam["difference"]["differences"] == pytest.approx([0.013, 0.016, 0.019])
    assert nam["difference"]["verdict"] == "better"
    assert nam["step_milliseconds"] == 64.0  # 64 images at 1000 a second
    assert [row["top1"] for row in found["runs"]] == [0.5, 0.513, 0.5, 0.516, 0.5, 0.519]
    assert found["missing"] == []
    assert "--archs r18w4,r18w4_nam" in found["command"]
    out = tmp_path / "out"
    with open(out / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in rows] == [row["top1"] for row in found["runs"]]
    folder, kept = tmp_path / "runs" / "r18w4_nam-s2", out / "runs" / "r18w4_nam-s2"
    assert sorted(path.name for path in kept.iterdir()) == sorted(grid.KEPT)
    assert all((kept / n).read_bytes() == (folder / n).read_bytes() for n in grid.KEPT)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.rglob("*") if "writing" in path.name]
    text = (out / "compare.md").read_text()
    assert (
        "| r18w4_nam | 3 | 51.60 ± 0.30 | 51.30–51.90 | +1.60 [+0.85, +2.35] | 0.0115 | 0.25 |"
        in text
    )
    assert "p cannot fall below 0.25" in text
    assert "a machine; tensorflow 1.0" in text, "of the runs, wherever the table is written"
    assert "test set" in found["measure"]


def test_each_variant_has_its_settings_and_seeds_their_order(run, tmp_path):
    archs = "r18w4,r18w4_nam:gate_gradient=false:gamma_penalty=1e-3,r18w4:stem=imagenet"
    run("--milestones", "4", "7", "--no-nesterov", archs=archs, seeds="5,2")
    names = ["r18w4", "r18w4_nam-gate_gradient-false-gamma_penalty-1e-3", "r18w4-stem-imagenet"]
    folders = [f"{name}-s{seed}" for seed in (5, 2) for name in names]
    assert started(tmp_path) == folders
    config = files.read_json(tmp_path / "runs" / folders[1] / "config.json")
    assert (config["arch"], config["seed"], config["stem"]) == ("r18w4_nam", 5, "cifar")
    settings = config["recipe_settings"]
    assert (settings["gate_gradient"], settings["gamma_penalty"]) == (False, 1e-3)
    assert (settings["milestones"], settings["nesterov"]) == ([4, 7], False)
    assert (settings["epochs"], settings["batch_size"]) == (3, 64)
    stem = files.read_json(tmp_path / "runs" / folders[2] / "config.json")
    assert (stem["stem"], stem["recipe_settings"]["gate_gradient"]) == ("imagenet", True)


def test_a_failed_run_is_named_and_the_others_continue(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("FAIL", "r18w4_nam-s0")
    with pytest.raises(FailedError, match=r"1 of 4 runs failed"):
        run("--jobs", "3", seeds="0,1")
    assert {arguments[0] for arguments in calls(tmp_path)} == {"2"}, "jobs share the cores"
    assert "r18w4_nam-s0 failed: error: The loss became nan at step 3." in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert found["missing"] == ["r18w4_nam-s0"]
    assert [row["n"] for row in found["variants"]] == [2, 1]
    assert found["variants"][1]["difference"]["seeds"] == [1]


def test_one_seed_has_no_interval_and_any_variant_can_be_the_baseline(finished, tmp_path):
    plain, nam = finished("--baseline", "r18w4_nam")["variants"]
    assert nam["difference"] is None
    assert plain["difference"]["mean"] == pytest.approx(-0.013)
    assert (plain["difference"]["low"], plain["difference"]["high"]) == (None, None)
    assert "One pair has no interval" in (tmp_path / "out" / "compare.md").read_text()


def test_a_validation_split_is_compared_on_and_not_the_test_set(run, tmp_path):
    found = run("--validation-split", "0.1", seeds="0,1")
    assert [row["top1"] for row in found["runs"]] == pytest.approx([0.4, 0.413, 0.4, 0.416])
    assert "validation split, last epoch" in (tmp_path / "out" / "compare.md").read_text()
    assert "0.513" not in (tmp_path / "out" / "compare.json").read_text()


def test_tables_without_training(finished, tmp_path):
    before = len(calls(tmp_path))
    found = finished("--no-train", archs="r18w4,r18w4_se,r18w4_nam", seeds="0,1")
    assert len(calls(tmp_path)) == before
    assert "--no-train" not in found["command"]
    assert [row["n"] for row in found["variants"]] == [1, 0, 1]
    assert found["missing"][0] == "r18w4_se-s0"
    assert "Not finished: 4 of 6 runs" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.parametrize(
    ("more", "archs", "message"),
    [
        ([], "r18w4,r18w4_nma", "Did you mean 'r18_nam'"),
        ([], "r18w4_se,r18w4_se:gain=2", "expected 1.0, since r18w4_se has no NAM gate"),
        (["--gain", "2"], "r18w4_nam,r18w4", "gain 2.0: expected 1.0, since r18w4 has no NAM gate"),
        ([], "r18w4:stem=cfar", "Unknown stem 'cfar'"),
        (["--baseline", "r18"], "r18w4,r18w4_nam", "as --baseline 'r18'; there are r18w4, r18w4_n"),
        (["--seeds", "0,0"], "r18w4", "0 is given twice"),
        (["--recipe", "fsat"], "r18w4", "Did you mean 'fast'"),
        (["--jobs", "0"], "r18w4", "--jobs 0"),
        (["--batch-size", "2001"], "r18w4", "--batch-size 2001"),
        (["--augment", "random_corp"], "r18w4", "Did you mean 'random_crop'"),
        (["--dataset", "cifar10", "--data-dir", "/nowhere"], "r18w4", "/nowhere"),
        (["--no-train"], "r18w4", r"No run is finished in .*omit --no-train"),
    ],
)
def test_bad_input_starts_nothing(run, tmp_path, more, archs, message):
    with pytest.raises(InputError, match=message):
        run(*more, archs=archs)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_real_trainings(tmp_path):
    command = [sys.executable, "training/compare.py", "--recipe", "fast", "--dataset", "synthetic"]
    command += ["--archs", "r18w4,r18w4_nam", "--seeds", "0,1", "--epochs", "1", "--jobs", "2"]
    command += ["--batch-size", "64", "--steps-per-epoch", "2"]
    command += ["--out", tmp_path / "out", "--runs-dir", tmp_path / "runs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["n"] for row in found["variants"]] == [2, 2]
    for row in found["runs"]:
        result = files.read_json(Path(row["folder"]) / "result.json")
        (last,) = files.read_history(Path(row["folder"]) / "history.csv")
        assert row["top1"] == result["top1"] == pytest.approx(last["val_top1"], abs=1e-6)
    top1 = {(row["name"], row["seed"]): row["top1"] for row in found["runs"]}
    assert found["variants"][1]["difference"]["differences"] == pytest.approx(
        [top1["r18w4_nam", seed] - top1["r18w4", seed] for seed in (0, 1)]
    )
