"""A comparison resumes from its run folders, or from the small files that it keeps."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support.stand_in_train import calls, started
from training.cli import InputError
from training.runs import files

ROOT = Path(__file__).parents[3]


def test_finished_runs_are_not_repeated_and_begun_ones_resumed(finished, tmp_path):
    (tmp_path / "runs" / "r18w4-s0" / "result.json").unlink()
    shutil.rmtree(tmp_path / "out")
    before = len(calls(tmp_path))
    found = finished(seeds="0,1")
    again = calls(tmp_path)[before:]
    assert ["--resume" in arguments for arguments in again] == [True, False, False]
    assert len(found["runs"]) == 4


def test_an_interrupted_comparison_ends_its_trainings_and_resumes(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HANG", "r18w4-s1")
    begun = tmp_path / "runs" / "r18w4-s1" / "history.csv"

    def interrupt():
        deadline = time.monotonic() + 30
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        finished(seeds="0,1")
    assert "same command resumes" in capsys.readouterr().out
    # The interrupted training has ended: it would have slept for a minute.
    assert "KeyboardInterrupt" in begun.parent.with_name("r18w4-s1.log").read_text()
    before = len(calls(tmp_path))
    assert finished(seeds="0,1")["missing"] == []
    again = calls(tmp_path)[before:]
    assert ["--resume" in arguments for arguments in again] == [True, False]


def test_another_checkout_trains_only_the_missing_runs(finished, tmp_path):
    first = finished()
    shutil.rmtree(tmp_path / "runs")
    second = finished(seeds="0,1")
    assert started(tmp_path) == ["r18w4-s1", "r18w4_nam-s1"]
    assert second["runs"][:2] == first["runs"]
    assert second["missing"] == []
    shutil.rmtree(tmp_path / "runs")
    again = finished("--no-train", seeds="0,1")
    assert (again["runs"], again["variants"]) == (second["runs"], second["variants"])


def test_a_kept_run_whose_folder_has_no_result_is_finished(finished, tmp_path):
    (tmp_path / "runs" / "r18w4-s0" / "result.json").unlink()
    (tmp_path / "runs" / "r18w4-s0" / "history.csv").unlink()
    before = len(calls(tmp_path))
    assert finished()["missing"] == []
    assert len(calls(tmp_path)) == before
    assert (tmp_path / "out" / "runs" / "r18w4-s0" / "history.csv").is_file()


def test_the_kept_runs_of_two_machines_are_merged(finished, tmp_path):
    finished(seeds="1", out="there", runs_dir="runs_there")
    here, there = (tmp_path / part / "runs" for part in ("out", "there"))
    for folder in there.iterdir():
        shutil.copytree(folder, here / folder.name)  # which fails if it exists
    merged = finished("--no-train", seeds="0,1")
    assert merged["missing"] == []
    assert merged["variants"][1]["difference"]["differences"] == pytest.approx([0.013, 0.016])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning-rate", "0.1"], r"learning_rate: 0\.4 there, 0\.1 here"),
        (["--recipe", "official", "--nesterov"], r"recipe: fast there, official here"),
        (["--steps-per-epoch", "4"], "steps_per_epoch: 31 there, 4 here"),
        (["--validation-split", "0.1"], r"validation_split: 0\.0 there, 0\.1 here"),
        (["--dataset", "cifar10"], "dataset: synthetic there, cifar10 here"),
        (["--precision", "mixed_bfloat16"], "precision: float32 there, mixed_bfloat16 here"),
        (["--image-size", "48"], r"image_size: \[32, 32\] there, \[48, 48\] here"),
        (["--crop-fraction", "0.5"], r"crop_fraction: None there, 0\.5 here"),
        (["--stem", "imagenet"], "stem: cifar there, imagenet here"),
        (["--augment"], r"augment: \['random_crop:mode=reflect', .* there, \[\] here"),
        (["--init", "a.keras"], r"init: None there, a\.keras here"),
    ],
)
def test_runs_of_other_settings_are_refused(finished, tmp_path, more, message):
    before = (tmp_path / "out" / "compare.json").read_bytes()
    for arguments in (more, ["--no-train", *more]):
        with pytest.raises(InputError, match=rf"r18w4-s0 was started .*{message}"):
            finished(*arguments)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(InputError, match=rf"out/runs/r18w4-s0 was started .*{message}"):
        finished(*more)
    assert (tmp_path / "out" / "compare.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--image-size", "48", "40"], r"image_size: \[48, 40\] there, \[32, 32\] here"),
        (["--crop-fraction", "0.5"], r"crop_fraction: 0\.5 there, None here"),
        (["--stem", "imagenet"], "stem: imagenet there, cifar here"),
        (["--progressive-sizes", "16", "32"], r"progressive_sizes: \[16, 32\] there, \[\] here"),
        (["--decay-exempt", "_nam"], r"decay_exempt: \['_nam'\] there, \[\] here"),
        (["--init", "a.keras"], r"init: a\.keras there, None here"),
    ],
)
def test_more_seeds_without_a_setting_of_the_first_are_refused(run, more, message):
    run(*more, archs="r18w4_nam")
    assert run(*more, archs="r18w4_nam")["missing"] == []
    with pytest.raises(InputError, match=message):
        run(archs="r18w4_nam", seeds="0,1")


def test_runs_that_differ_from_the_first_are_refused(finished, tmp_path):
    for key, value in (("precision", "mixed_float16"), ("training_images", 1800)):
        path = tmp_path / "runs" / "r18w4_nam-s0" / "config.json"
        whole = path.read_text()
        files.write_json(path, json.loads(whole) | {key: value})
        with pytest.raises(InputError, match=rf"r18w4_nam-s0 was started .*{key}: {value} there"):
            finished()
        path.write_text(whole)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], ["--mean", "auto"]),
        (["--mean", "auto"], []),
        ([], ["--mean", "imagenet"]),
        (["--mean", "imagenet"], ["--mean", "auto"]),
        (["--init", "a.keras"], ["--init", "a.keras", "--mean", "0.5", "0.5", "0.5"]),
    ],
)
def test_runs_with_another_normalization_are_refused(run, first, second):
    run(*first, archs="r18w4_nam")
    run(*first, archs="r18w4_nam")
    with pytest.raises(InputError, match=r"(normalization|mean): .* there, .* here"):
        run(*second, archs="r18w4_nam")


@pytest.mark.parametrize(
    ("key", "value"), [("class_names", ["a", "b"]), ("pictures", "another hash")]
)
def test_runs_on_other_pictures_are_refused(finished, tmp_path, key, value):
    folders = [tmp_path / "runs" / f"{name}-s0" for name in ("r18w4", "r18w4_nam")]
    for folder, found in zip(folders, (["b", "a"], value), strict=True):
        path = folder / "config.json"
        files.write_json(path, files.read_json(path) | {key: found})
    with pytest.raises(InputError, match=rf"r18w4_nam-s0 was started .*{key}: "):
        finished()


def test_runs_from_other_weights_are_refused(run, tmp_path):
    weights = tmp_path / "a.npz"
    weights.write_bytes(b"some")
    given = ["--init", str(weights)]
    run(*given, archs="r18w4_nam")
    path = tmp_path / "runs" / "r18w4_nam-s0" / "config.json"
    init = {"source": str(weights), "sha256": files.sha256(weights)}
    files.write_json(path, files.read_json(path) | {"init": init})
    run(*given, archs="r18w4_nam")
    files.write_json(path, files.read_json(path) | {"init": {**init, "sha256": "another"}})
    with pytest.raises(InputError, match="hash of --init: another there"):
        run(*given, archs="r18w4_nam")


def test_missing_runs_train_in_the_precision_of_the_first(finished, tmp_path):
    for path in tmp_path.rglob("config.json"):
        files.write_json(path, files.read_json(path) | {"precision": "mixed_float16"})
    before = len(calls(tmp_path))
    finished(seeds="0,1")
    again = calls(tmp_path)[before:]
    assert ["--precision=mixed_float16" in arguments for arguments in again] == [True, True]


def test_a_setting_that_was_added_later_had_its_default(finished, tmp_path):
    shutil.rmtree(tmp_path / "runs")
    path = tmp_path / "out" / "runs" / "r18w4-s0" / "config.json"
    config = files.read_json(path)
    del config["recipe_settings"]["progressive_sizes"]
    files.write_json(path, config)
    assert finished("--no-train")["missing"] == []
    with pytest.raises(InputError, match=r"progressive_sizes: \[\] there, \[16, 32\] here"):
        finished("--no-train", "--progressive-sizes", "16", "32")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("history.csv", "epoch,loss\n1,0.5\n", "does not end with epoch 3"),
        ("history.csv", "epoch,loss\n1,x\n", "is damaged"),
        ("result.json", "{", "cannot be read"),
        ("result.json", '{"top1": 0.5}', "is damaged"),
        ("config.json", '{"recipe_settings": {}}', "not a training"),
        ("config.json", "{", "cannot be read"),
    ],
)
def test_damaged_runs_are_refused(finished, tmp_path, kept, file, content, message):
    if kept:
        shutil.rmtree(tmp_path / "runs")
    folder = "out/runs/r18w4-s0" if kept else "runs/r18w4-s0"
    (tmp_path / folder / file).write_text(content)
    with pytest.raises(InputError, match=f"{folder}.*{message}"):
        finished("--no-train")


def test_two_comparisons_into_one_folder(run, tmp_path):
    (tmp_path / "runs").mkdir()
    with open(tmp_path / "runs" / ".compare.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"Another comparison.*--runs-dir"):
            run()
    assert calls(tmp_path) == []


def test_git_ignores_the_run_folders_and_not_the_kept_runs():
    paths = ["results/short/runs/r18w16-s0/result.json", "runs/short/r18w16-s0/last.keras"]
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *paths]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no git")
    if found.returncode > 1:
        pytest.skip("no checkout")
    assert found.stdout.split() == paths[1:]


def test_published_tables_have_their_runs():
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
