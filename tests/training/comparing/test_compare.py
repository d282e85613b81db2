"""The command from grid to report, with a stand-in for the trainings, and its bad input."""

import csv
import fcntl
import json
import os
import shutil

import pytest

from tests.support.stand_in_train import calls, started
from training.cli import FailedError, InputError
from training.comparing import grid
from training.comparing import report as compare_report
from training.runs import files

DRAW = compare_report.draw  # which the fixture replaces


def test_whole_comparison(run, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_report, "draw", DRAW)
    report = run(seeds="0,1,2")
    assert len(calls(tmp_path)) == 6
    plain, nam = report["variants"]
    assert plain["difference"] is None
    assert nam["n"] == 3
    assert nam["difference"]["differences"] == pytest.approx([0.013, 0.016, 0.019])
    assert nam["difference"]["verdict"] == "better"
    assert nam["step_milliseconds"] == 64.0  # 64 images at 1000 a second
    assert [(r["name"], r["seed"], r["top1"]) for r in report["runs"]][:3] == [
        ("r18w4", 0, 0.5),
        ("r18w4_nam", 0, 0.513),
        ("r18w4", 1, 0.5),
    ]
    assert report["missing"] == []
    assert "--archs r18w4,r18w4_nam" in report["command"]
    out = tmp_path / "out"
    with open(out / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["top1"]) for row in rows] == [row["top1"] for row in report["runs"]]
    run_folder, kept = tmp_path / "runs" / "r18w4_nam-s2", out / "runs" / "r18w4_nam-s2"
    assert sorted(path.name for path in kept.iterdir()) == sorted(grid.KEPT)
    assert all((kept / n).read_bytes() == (run_folder / n).read_bytes() for n in grid.KEPT)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.rglob("*") if "writing" in path.name]
    text = (out / "compare.md").read_text()
    assert "| r18w4_nam | 3 | 51.60 ± 0.30 | 51.30–51.90 | +1.60 [+0.85, +2.35] | 0.25 |" in text
    assert "p cannot fall below 0.25" in text
    assert "test set" in report["measure"]


def test_runs_go_seed_by_seed_each_with_its_settings(run, tmp_path):
    run(
        "--milestones",
        "4",
        "7",
        "--no-nesterov",
        archs="r18w4,r18w4_nam:gate_gradient=false:gamma_penalty=1e-3,r18w4:stem=imagenet",
        seeds="5,2",
    )
    names = ["r18w4", "r18w4_nam-gate_gradient-false-gamma_penalty-1e-3", "r18w4-stem-imagenet"]
    folders = started(tmp_path)
    assert folders == [f"{name}-s{seed}" for seed in (5, 2) for name in names]
    config = json.loads((tmp_path / "runs" / folders[1] / "config.json").read_text())
    assert (config["arch"], config["seed"], config["stem"]) == ("r18w4_nam", 5, "cifar")
    settings = config["recipe_settings"]
    assert (settings["gate_gradient"], settings["gamma_penalty"]) == (False, 1e-3)
    assert (settings["milestones"], settings["nesterov"]) == ([4, 7], False)
    assert (settings["epochs"], settings["batch_size"]) == (3, 64)
    stem = json.loads((tmp_path / "runs" / folders[2] / "config.json").read_text())
    assert (stem["stem"], stem["recipe_settings"]["gate_gradient"]) == ("imagenet", True)


def test_finished_runs_are_not_repeated_and_begun_ones_resumed(finished, tmp_path):
    (tmp_path / "runs" / "r18w4-s0" / "result.json").unlink()
    shutil.rmtree(tmp_path / "out")
    before = len(calls(tmp_path))
    report = finished(seeds="0,1")
    again = calls(tmp_path)[before:]
    assert len(again) == 3
    assert ["--resume" in arguments for arguments in again] == [True, False, False]
    assert len(report["runs"]) == 4


def test_a_failed_run_is_named_and_the_others_go_on(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIL", "r18w4_nam-s0")
    with pytest.raises(FailedError, match=r"1 of 4 runs failed"):
        run(seeds="0,1")
    assert "r18w4_nam-s0 failed: error: The loss became nan at step 3." in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert report["missing"] == ["r18w4_nam-s0"]
    assert [row["n"] for row in report["variants"]] == [2, 1]
    assert report["variants"][1]["difference"]["seeds"] == [1]
    monkeypatch.delenv("FAIL")
    assert run(seeds="0,1")["missing"] == []


def test_one_seed_works_and_says_why_there_is_no_interval(run, tmp_path):
    (difference,) = [row["difference"] for row in run(seeds="0")["variants"] if row["difference"]]
    assert (difference["low"], difference["high"]) == (None, None)
    assert "One pair has no interval" in (tmp_path / "out" / "compare.md").read_text()


def test_a_against_a_is_zero(run):
    """A variant's settings that are the recipe's own make it the baseline by another name."""
    row = run(archs="r18w4,r18w4:stem=cifar")["variants"][1]
    assert [row["difference"][key] for key in ("mean", "low", "high")] == [0, 0, 0]
    assert row["difference"]["verdict"] == "no difference shown"


def test_another_baseline(finished):
    plain, nam = finished("--baseline", "r18w4_nam", seeds="0")["variants"]
    assert nam["difference"] is None
    assert plain["difference"]["mean"] == pytest.approx(-0.013)


def test_a_validation_split_is_compared_on_and_not_the_test_set(run, tmp_path):
    report = run("--validation-split", "0.1", seeds="0,1")
    assert [row["top1"] for row in report["runs"]] == pytest.approx([0.4, 0.413, 0.4, 0.416])
    assert "validation split, last epoch" in (tmp_path / "out" / "compare.md").read_text()
    assert "0.513" not in (tmp_path / "out" / "compare.json").read_text()


def test_tables_without_training(run, tmp_path):
    with pytest.raises(InputError, match=r"No run is finished in .*omit --no-train"):
        run("--no-train")
    assert not list(tmp_path.iterdir())
    run(seeds="0,1")
    before = len(calls(tmp_path))
    report = run("--no-train", archs="r18w4,r18w4_se,r18w4_nam", seeds="0,1,2")
    assert len(calls(tmp_path)) == before
    assert "--no-train" not in report["command"], "the command that is repeated trains"
    assert [row["n"] for row in report["variants"]] == [2, 0, 2]
    assert report["missing"][0] == "r18w4_se-s0"
    assert "Not finished: r18w4_se-s0" in (tmp_path / "out" / "compare.md").read_text()


def test_jobs_share_the_cores(run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    run("--jobs", "3", seeds="0")
    assert {arguments[0] for arguments in calls(tmp_path)} == {"2"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning-rate", "0.1"], r"learning_rate: 0\.4 there, 0\.1 here"),
        (["--recipe", "official", "--nesterov"], r"recipe: fast there, official here"),
        (["--steps-per-epoch", "4"], "steps_per_epoch: 31 there, 4 here"),
        (["--validation-split", "0.1"], r"validation_split: 0\.0 there, 0\.1 here"),
        (["--dataset", "cifar10"], "dataset: synthetic there, cifar10 here"),
        (["--precision", "mixed_bfloat16"], "precision: float32 there, mixed_bfloat16 here"),
    ],
)
def test_runs_of_other_settings_are_refused(finished, tmp_path, more, message):
    before = (tmp_path / "out" / "compare.json").read_text()
    with pytest.raises(InputError, match=rf"r18w4-s0 was started with other settings: {message}"):
        finished(*more, seeds="0")
    with pytest.raises(InputError, match=message):
        finished("--no-train", *more, seeds="0")
    assert (tmp_path / "out" / "compare.json").read_text() == before


def test_runs_that_are_unlike_each_other_are_refused(finished, tmp_path):
    for key, value in (("precision", "mixed_float16"), ("training_images", 1800)):
        path = tmp_path / "runs" / "r18w4_nam-s0" / "config.json"
        whole = path.read_text()
        files.write_json(path, json.loads(whole) | {key: value})
        with pytest.raises(InputError, match=rf"r18w4_nam-s0 was started .*{key}: {value} there"):
            finished(seeds="0")
        path.write_text(whole)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("history.csv", "epoch,loss\n1,0.5\n", "does not end with epoch 3"),
        ("history.csv", "epoch,loss\n1,x\n", "is damaged"),
        ("result.json", '{"top1": 0.5}', "is damaged"),
        ("config.json", "{}", "not a training"),
        ("config.json", "{", "cannot be read"),
    ],
)
def test_damaged_runs_are_one_line(finished, tmp_path, file, content, message):
    (tmp_path / "runs" / "r18w4-s0" / file).write_text(content)
    with pytest.raises(InputError, match=message):
        finished("--no-train", seeds="0")


def test_two_comparisons_into_one_folder(run, tmp_path):
    (tmp_path / "runs").mkdir()
    with open(tmp_path / "runs" / ".compare.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"Another comparison.*--runs-dir"):
            run()
    assert calls(tmp_path) == []
    run(seeds="0")


@pytest.mark.parametrize(
    ("more", "archs", "message"),
    [
        ([], "r18w4,r18w4_nma", "Did you mean 'r18_nam'"),
        ([], "r18w4:stem=cfar", "Unknown stem 'cfar'"),
        (["--baseline", "r18"], "r18w4,r18w4_nam", "as --baseline 'r18'; there are r18w4, r18w4_n"),
        (["--seeds", "0,0"], "r18w4", "0 is given twice"),
        (["--recipe", "fsat"], "r18w4", "Did you mean 'fast'"),
        (["--dataset", "cifar"], "r18w4", "Did you mean 'cifar10'"),
        (["--precision", "float23"], "r18w4", "Did you mean 'float32'"),
        (["--jobs", "0"], "r18w4", "--jobs 0"),
        (["--steps-per-epoch", "0"], "r18w4", "--steps-per-epoch 0"),
        (["--batch-size", "2001"], "r18w4", "--batch-size 2001"),
        (["--augment", "random_corp"], "r18w4", "Did you mean 'random_crop'"),
        (["--dataset", "cifar10", "--data-dir", "/nowhere"], "r18w4", "/nowhere"),
    ],
)
def test_bad_input_starts_nothing(run, tmp_path, more, archs, message):
    with pytest.raises(InputError, match=message):
        run(*more, archs=archs)
    assert not list(tmp_path.iterdir())
