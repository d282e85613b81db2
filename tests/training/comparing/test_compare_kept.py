"""A comparison goes on from the small files that it keeps, without the run folders."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.stand_in_train import calls, started
from training.cli import InputError
from training.runs import files

ROOT = Path(__file__).parents[3]


def without_the_folder(report):
    """Returns the single runs' figures but for where their folders are."""
    return [{k: v for k, v in row.items() if k != "folder"} for row in report["runs"]]


def test_a_clone_trains_only_what_is_missing(run, tmp_path):
    first = run(seeds="0")
    shutil.rmtree(tmp_path / "runs")
    second = run(seeds="0,1")
    assert started(tmp_path) == ["r18w4-s1", "r18w4_nam-s1"]
    assert second["runs"][:2] == first["runs"]
    assert second["missing"] == []
    shutil.rmtree(tmp_path / "runs")
    again = run("--no-train", seeds="0,1")
    assert {k: again[k] for k in ("runs", "variants")} == {
        k: second[k] for k in ("runs", "variants")
    }
    assert calls(tmp_path) == []


def test_a_begun_run_that_is_kept_is_not_trained_again(finished, tmp_path):
    (tmp_path / "runs" / "r18w4-s0" / "result.json").unlink()
    (tmp_path / "runs" / "r18w4-s0" / "history.csv").unlink()
    before = len(calls(tmp_path))
    assert finished(seeds="0")["missing"] == []
    assert len(calls(tmp_path)) == before
    assert (tmp_path / "out" / "runs" / "r18w4-s0" / "history.csv").is_file()


def test_two_machines_take_a_part_each(run, tmp_path):
    """Their parts have no file of a run in common; together they are the whole."""
    archs = "r18w4_nam"
    whole = run(archs=archs, seeds="0,1", out="whole", runs_dir="runs_of_whole")
    run(archs=archs, seeds="0", out="here", runs_dir="runs_here")
    run(archs=archs, seeds="1", out="there", runs_dir="runs_there")
    here, there = (tmp_path / part / "runs" for part in ("here", "there"))
    names = [{path.name for path in part.iterdir()} for part in (here, there)]
    assert not names[0] & names[1]
    for folder in there.iterdir():
        shutil.copytree(folder, here / folder.name)
    merged = run("--no-train", archs=archs, seeds="0,1", out="here", runs_dir="runs_here")
    assert without_the_folder(merged) == without_the_folder(whole)
    assert merged["variants"] == whole["variants"]


def change(folder, settings):
    """Changes settings of a run's config.json; those of value `None` are taken out."""
    config = files.read_json(folder / "config.json")
    config["recipe_settings"] |= settings
    for key in [key for key, value in settings.items() if value is None]:
        del config["recipe_settings"][key]
    files.write_json(folder / "config.json", config)


def test_a_setting_that_came_later_was_the_default(finished, tmp_path):
    shutil.rmtree(tmp_path / "runs")
    kept = tmp_path / "out" / "runs" / "r18w4-s0"
    change(kept, {"image_sizes": None})
    assert finished("--no-train", seeds="0")["missing"] == []
    with pytest.raises(InputError, match=r"image_sizes: \[32\] there, \[16, 32\] here"):
        finished("--no-train", "--image-sizes", "16", "32", seeds="0")


def test_kept_runs_of_other_settings_are_refused(finished, tmp_path):
    before = (tmp_path / "out" / "compare.json").read_bytes()
    expected = r"out/runs/r18w4-s0 was started with other settings: momentum: 0\.8 there, 0\.9 here"
    change(tmp_path / "out" / "runs" / "r18w4-s0", {"momentum": 0.8})
    for _ in range(2):  # with the run folder, and without it
        with pytest.raises(InputError, match=rf"{expected}.*--out and --runs-dir"):
            finished(seeds="0")
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    assert (tmp_path / "out" / "compare.json").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("history.csv", None, "does not end with epoch 3"),
        ("config.json", None, "is missing"),
        ("config.json", '{"recipe_settings": {}}', "not a training"),
        ("result.json", "{", "cannot be read"),
    ],
)
def test_damaged_kept_runs_are_one_line(finished, tmp_path, file, content, message):
    shutil.rmtree(tmp_path / "runs")
    path = tmp_path / "out" / "runs" / "r18w4-s0" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=f"out/runs/r18w4-s0.*{message}"):
        finished("--no-train", seeds="0")


def test_git_takes_what_is_kept_and_not_the_run_folders():
    paths = ["results/short/runs/r18w16-s0/result.json", "runs/short/r18w16-s0/last.keras"]
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *paths]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no git")
    if found.returncode > 1:
        pytest.skip("no checkout")
    assert found.stdout.split() == paths[1:]


def test_the_kept_runs_of_the_results_are_whole():
    """Each run of a published comparison has its record, which its tables can be made of."""
    for table in ROOT.glob("results/*/compare.json"):
        report = json.loads(table.read_text())
        for row in report["runs"]:
            kept = table.parent / "runs" / Path(row["folder"]).name
            result = files.read_json(kept / "result.json")
            history = files.read_history(kept / "history.csv")
            on_validation = report["options"]["validation_split"]
            measured = history[-1]["val_top1"] if on_validation else result["top1"]
            assert measured == row["top1"]
            assert len(history) == row["epochs"]
