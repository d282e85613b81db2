"""The benchmark of scaling, with a stand-in for the launched training."""

import json
import os

import pytest

from benchmarks import scaling
from training import launch, train
from training.cli import FailedError, InputError
from training.runs import files

# Logs its arguments and its cores, and writes the history of a run whose first epoch is slow. Two
# independent processes at the same time are slower than one alone.
PROGRAM = """
import json, os, pathlib, sys

arguments = sys.argv[1:]
settings = dict(argument[2:].split("=") for argument in arguments if "=" in argument)
run = pathlib.Path(settings["run-dir"])
name = run.parent.name
with open(os.environ["LOG"], "a") as log:
    print(json.dumps([name, arguments, sorted(os.sched_getaffinity(0))]), file=log)
if "STATUS" in os.environ:
    print("[0] error: --arch r51: Unknown arch.")
    sys.exit(int(os.environ["STATUS"]))
speed = {"one": 100, "apart": 80, "weak": 140, "strong": 120}[name.partition("-")[0]]
run.mkdir()
rows = ["epoch,images_per_second", "1,1", f"2,{speed - 1}", f"3,{speed + 1}"]
(run / "history.csv").write_text("\\n".join(rows))
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Puts the stand-in in the place of launch.py; returns a function that reads its log."""
    pytest.importorskip("jax")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two processes need two cores")
    program, log = tmp_path / "launch.py", tmp_path / "log.jsonl"
    program.write_text(PROGRAM)
    monkeypatch.setattr(scaling, "LAUNCH", program)
    monkeypatch.setenv("LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def test_the_contenders_take_turns_on_two_cores(log, tmp_path):
    arguments = ["--arch", "r18w8_nam", "--steps", "4", "--output", str(tmp_path / "out")]
    scaling.main(arguments)
    report = files.read_json(tmp_path / "out" / "scaling.json")
    assert report["turns"] == 3 * [{"one": 100, "apart": 160, "weak": 140, "strong": 120}]
    efficiency = {row["contender"]: row["efficiency"]["median"] for row in report["results"]}
    assert efficiency == {"one": 1, "apart": 0.8, "weak": 0.7, "strong": 0.6}
    page = (tmp_path / "out" / "scaling.md").read_text()
    assert "| 140.0 (140.0–140.0) |" in page
    assert " 70% (70%–70%) |" in page
    assert "~" not in page
    low, high = scaling.two_cores()
    names, arguments, cores = zip(*log(), strict=True)
    alone, apart = [f"one-{low}", f"one-{high}"], {f"apart-{low}", f"apart-{high}"}
    for number in range(3):
        turn = names[6 * number : 6 * number + 6]
        assert list(turn[:2]) == alone
        assert set(turn[2:4]) == apart
        assert list(turn[4:]) == ["weak", "strong"]
    assert dict(zip(names, cores, strict=True)) == {
        **{name: [int(name.partition("-")[2])] for name in (*alone, *apart)},
        "weak": [low, high],
        "strong": [low, high],
    }
    batches = {}
    for name, given in zip(names, arguments, strict=True):
        end = given.index("--")
        launched = launch.parser().parse_args(given[:end])
        trained = train.parser().parse_args(given[end + 1 :])
        assert (launched.processes, launched.pin) == (1 if "-" in name else 2, True)
        assert (trained.arch, trained.steps_per_epoch) == ("r18w8_nam", 4)
        batches[name] = trained.batch_size
    assert batches == {**dict.fromkeys((*alone, *apart), 128), "weak": 256, "strong": 128}


@pytest.mark.parametrize(("status", "kind"), [(2, InputError), (1, FailedError)])
def test_the_error_of_a_training_is_the_error(log, tmp_path, monkeypatch, status, kind):
    monkeypatch.setenv("STATUS", str(status))
    with pytest.raises(kind, match=r"^--arch r51: Unknown"):
        scaling.main(["--arch", "r51", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_bad_usage(tmp_path):
    with pytest.raises(InputError, match="--batch-size 7: expected an even"):
        scaling.main(["--batch-size", "7", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_one_core_is_refused(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    with pytest.raises(InputError, match=r"1 core.*expected 2"):
        scaling.main([])
