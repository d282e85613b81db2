"""Run folders: written whole or not at all, opened again only with the same settings."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from training.cli import InputError
from training.runs import files

ROOT = Path(__file__).parents[3]

CONFIG = {
    "arch": "r18_nam",
    "seed": 0,
    "recipe_settings": {"epochs": 3, "std": (0.1, 0.2, 0.3)},
    "environment": {"git_revision": "abc"},
}


def start(folder, config=CONFIG, resume=False):
    """Opens a run folder as a training does, and returns."""
    with files.opened(folder, config, resume) as opened:
        return opened


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")

    def write(temporary, error=None):
        assert path.read_text() == "old"
        assert temporary.suffix == ".keras"  # savers choose the format by it
        temporary.write_text("new")
        if error:
            raise error

    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            files.write_atomically(path, lambda temporary, e=error: write(temporary, e))
        assert path.read_text() == "old"
        assert names(tmp_path) == ["model.keras"]
    files.write_atomically(path, write)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["model.keras"]


def test_json_is_readable_text_with_null_for_nan(tmp_path):
    path = tmp_path / "a.json"
    rows = [(1, {"x": math.nan, "y": -math.inf, "z": np.float64("nan")})]
    files.write_json(path, {"name": "übung", "rows": rows})
    text = path.read_text("utf-8")
    assert text.startswith('{\n  "name": "übung",\n')
    expected = {"name": "übung", "rows": [[1, {"x": None, "y": None, "z": None}]]}
    assert json.loads(text, parse_constant=pytest.fail) == expected
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "is missing"), ('{"a": ', "cannot be read"), ("", "cannot be")]
)
def test_json_that_is_missing_or_damaged_is_an_input_error(tmp_path, content, expected):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"{path} {expected}"):
        files.read_json(path)


def test_history_round_trip(tmp_path):
    rows = [
        dict.fromkeys(files.HISTORY_COLUMNS, 1 / 3) | {"epoch": 1},
        dict.fromkeys(files.HISTORY_COLUMNS, 1e-30) | {"epoch": 2, "val_top5": math.inf},
    ]
    path = tmp_path / "history.csv"
    assert files.read_history(path) == []
    files.write_history(path, rows)
    assert files.read_history(path) == rows
    assert path.read_text().splitlines()[0] == ",".join(files.HISTORY_COLUMNS)
    files.write_history(path, [rows[0] | {"val_loss": math.nan}])
    assert math.isnan(files.read_history(path)[0]["val_loss"])
    assert names(tmp_path) == ["history.csv"]


@pytest.mark.parametrize("content", ["epoch,loss\n1,\n", "epoch,loss\nx,1\n", "epoch,loss\n1\n"])
def test_a_damaged_history_is_an_input_error(tmp_path, content):
    path = tmp_path / "history.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=f"{path} is damaged"):
        files.read_history(path)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_run_starts_with_its_configuration(tmp_path, exists, resume):
    folder = tmp_path if exists else tmp_path / "runs" / "a"
    assert start(folder, CONFIG, resume) == folder
    assert names(folder) == [".lock", "config.json"]
    assert files.read_json(folder / "config.json") == json.loads(json.dumps(CONFIG))


def test_an_existing_run_is_resumed_only_when_asked(tmp_path):
    start(tmp_path)
    with pytest.raises(InputError, match=r"exists\..*--resume"):
        start(tmp_path)
    elsewhere = {**CONFIG, "environment": {"git_revision": "def"}}
    assert start(tmp_path, elsewhere, resume=True) == tmp_path
    assert files.read_json(tmp_path / "config.json")["environment"] == CONFIG["environment"]


@pytest.mark.parametrize("resume", [False, True])
def test_other_settings_are_named_and_change_nothing(tmp_path, resume):
    start(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    recipe = {"epochs": 4, "std": (0.1, 0.2, 0.3)}
    changed = {**CONFIG, "seed": 1, "recipe_settings": recipe, "stem": "imagenet"}
    expected = "epochs: 3 there, 4 now; seed: 0 there, 1 now; stem: None there, imagenet now"
    with pytest.raises(InputError, match=expected):
        start(tmp_path, changed, resume)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        start(tmp_path, resume=True)
    assert names(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_in_the_way_is_an_input_error(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        start(tmp_path / path, CONFIG, resume=False)


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_a_disk_that_refuses_is_an_input_error(tmp_path, monkeypatch, reason):
    def refuse(*_):
        raise OSError(0, reason)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=f"cannot be written .{reason}"):
        start(tmp_path / "run", CONFIG, resume=False)
    assert names(tmp_path / "run") == [".lock"]
    monkeypatch.undo()
    start(tmp_path / "run", CONFIG, resume=False)


def test_the_newest_finished_run(tmp_path):
    for root in ("", "missing"):
        with pytest.raises(InputError, match=r"No finished run under .*python training/train.py"):
            files.newest_finished(tmp_path / root)
    for name, modified in (("a", 200), ("b", 300), ("c", 100)):
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "result.json", {})
        os.utime(tmp_path / name / "result.json", (modified, modified))
    (tmp_path / "unfinished").mkdir()
    assert files.newest_finished(tmp_path) == tmp_path / "b"


def test_the_environment(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    found = files.environment(["keras", "no-such-package"])
    assert found["versions"]["keras"].startswith("3.")
    assert found["versions"]["no-such-package"] is None
    assert found["git_revision"] == files.git_revision()
    assert f"{os.cpu_count()} cores" in found["machine"]
    assert found["machine"].endswith("TF_ENABLE_ONEDNN_OPTS=1")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in another folder, which `git_revision` is asked for."""
    folder = tmp_path / "outer" / "project"
    module = folder / "training" / "runs" / "files.py"
    module.parent.mkdir(parents=True)
    module.write_text("# a module\n")
    monkeypatch.setattr(files, "__file__", str(module))
    return folder


def commit(folder):
    """Makes a folder a repository with all its files in one commit; returns its name."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(head, cwd=folder, capture_output=True, text=True).stdout.strip()


def test_the_revision_of_a_checkout_and_outside_one(project, monkeypatch):
    assert files.git_revision() is None
    expected = commit(project)
    assert files.git_revision() == expected
    Path(files.__file__).write_text("# changed\n")
    assert files.git_revision() == f"{expected}+changes"
    monkeypatch.setenv("PATH", "")
    assert files.git_revision() is None


def test_the_revision_of_a_surrounding_repository_is_not_the_projects(project, monkeypatch):
    commit(project.parent)
    assert files.git_revision() is None
    monkeypatch.setenv("GIT_DIR", str(project.parent / ".git"))  # as in a hook
    assert files.git_revision() is None


def test_while_one_training_holds_the_folder_another_leaves_no_trace(tmp_path):
    """Whatever its settings are, and though the first one has not written its own yet."""
    folder = tmp_path / "run"
    with files.opened(folder, CONFIG, resume=False):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(InputError, match=r"Another training.*--run-dir"):
            start(folder, CONFIG, resume=True)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    start(folder, CONFIG, resume=True)

    (folder / "config.json").unlink()
    with files.lock(folder / ".lock"), pytest.raises(InputError, match="Another training"):
        start(folder, {**CONFIG, "seed": 1})
    assert names(folder) == [".lock"]


def test_a_finished_run_is_opened_without_its_lock(tmp_path):
    """As on a disk that can only be read."""
    files.write_json(tmp_path / "config.json", CONFIG)
    files.write_json(tmp_path / "result.json", {})
    assert start(tmp_path, CONFIG, resume=True) == tmp_path
    assert names(tmp_path) == ["config.json", "result.json"]


def test_a_lock_ends_with_the_process_that_was_killed(tmp_path):
    code = """
import sys
from training.runs import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="busy"), files.lock(tmp_path / ".lock", "busy"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with files.lock(tmp_path / ".lock", "busy"):
        pass


def test_one_process_writes_a_file_of_the_cache_and_another_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    begun, written = threading.Barrier(2), []

    def write(path):
        time.sleep(0.2)  # while the other one comes
        written.append(path)
        path.write_text("pixels")

    def cached(_):
        begun.wait(10)
        return files.cached("some.bin", Path.is_file, write).read_text()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(cached, range(2))) == ["pixels", "pixels"]
    assert written == [files.cache_folder() / "some.bin"]
