"""One of several processes: its place, and that it joins, agrees and trains with the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.networks import small_network
from training import launch, train
from training.cli import InputError
from training.fitting import multihost
from training.runs import files

ROOT = Path(__file__).parents[3]
OPTIONS = ["--arch", "r18w4", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
OPTIONS += ["--batch-size", "32", "--epochs", "1", "--steps-per-epoch", "4"]
OPTIONS += ["--learning-rate", "0.01"]
# train.py with the small network, and without the export at its end.
TRAIN = """
import sys
from tests.support.networks import small_network
from training import cli, train
from training.fitting import job, multihost
from training.runs import files
small_network.replace_network()
job.finish_in_tensorflow = lambda job: files.write_json(job.folder / "result.json", {"loss": 0})
cli.run(lambda: train.main(sys.argv[1:]), multihost.exit_at_once)
"""
JOIN = """
import sys
from training import cli
from training.fitting import multihost

def main():
    print(multihost.join(lambda line: None), flush=True)
    multihost.agree({"seed": 0, "arch": "r18"})
    multihost.agree({"seed": int(sys.argv[1]), "arch": "r18"})

cli.run(main, multihost.exit_at_once)
"""


def start(address, number, **settings):
    """Starts a process that joins another one and says that its seed is its number."""
    environment = launch.environment(address, 2, number)
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(number)],
        env={**environment, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Returns the status of a process, its output, and its one `error:` line."""
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    (error,) = [line for line in errors.splitlines() if line.startswith("error:")]
    return process.returncode, output.splitlines(), error


def test_two_processes_join_and_are_refused_when_they_differ():
    address = launch.free_address()
    processes = [start(address, number) for number in (0, 1)]
    for number, process in enumerate(processes):
        status, output, error = ended(process)
        assert status == 2
        assert f"({number}, 2)" in output
        assert "seed: 0 in process 0, 1" in error
        assert "arch" not in error


def test_an_absent_process():
    process = start(launch.free_address(), 1, KERAS_NAM_JOIN_TIMEOUT="1")
    status, _, error = ended(process)
    assert status == 2
    assert "Process 1 waited 1 s" in error


def test_two_processes_train_as_one_device(tmp_path, monkeypatch):
    """`test_strategies` has the same with ResNet-18 (`slow`)."""
    one, two, program = tmp_path / "one", tmp_path / "two", tmp_path / "train.py"
    with monkeypatch.context() as patch:
        small_network.write_only_history_and_checkpoints(patch)
        train.main([*OPTIONS, "--run-dir", str(one)])
    program.write_text(TRAIN)
    environment = {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster
    }
    command = [sys.executable, "-c", small_network.LAUNCH, str(program), "--processes", "2", "--"]
    subprocess.run(
        [*command, *OPTIONS, "--run-dir", str(two)],
        env={**os.environ, **environment},
        check=True,
        timeout=300,
    )
    (ours,), (theirs,) = (files.read_history(folder / "history.csv") for folder in (two, one))
    for key in ("loss", "top1", "val_loss", "val_top1", "learning_rate"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4)
    assert (two / "last.keras").is_file()


@pytest.mark.parametrize(
    ("address", "processes", "process"),
    [
        (None, "2", "0"),
        ("127.0.0.1", "2", "0"),
        ("127.0.0.1:70000", "2", "0"),
        ("127.0.0.1:4000", "2", None),
        ("127.0.0.1:4000", "2", "2"),
        (None, None, None),
    ],
)
def test_a_wrong_place_and_a_single_process(monkeypatch, address, processes, process):
    monkeypatch.setattr(multihost, "choose_backend", lambda: None)
    for name, value in zip(multihost.NAMES, (address, processes, process), strict=True):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    if processes:
        with pytest.raises(InputError, match="HOST:PORT"):
            multihost.join(print)
    else:
        assert multihost.join(print) == (0, 1)
        multihost.agree({"seed": 0})
