"""One of several processes: its place, and that it joins and agrees with the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import small_network
from training import train
from training.cli import InputError
from training.fitting import multihost, network
from training.runs import files

ROOT = Path(__file__).parents[3]
OPTIONS = ["--arch", "r18w4", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
OPTIONS += ["--batch-size", "32", "--epochs", "1", "--steps-per-epoch", "4"]
OPTIONS += ["--learning-rate", "0.01"]
# train.py with the small network, and without the export at its end.
TRAIN = """
import sys
from tests.support import small_network
from training import cli, train
from training.fitting import finishing, multihost
small_network.replace_network()
finishing.in_tensorflow = lambda *_: {"loss": 0.0}
cli.run(lambda: train.main(sys.argv[1:]), multihost.exit_at_once)
"""
JOIN = """
import sys
from training import cli
from training.fitting import multihost

def main():
    joined = multihost.join(lambda line: None)
    multihost.agree({"seed": sys.argv[1], "arch": "r18"})
    multihost.part()
    print(joined)

cli.run(main, multihost.exit_at_once)
"""


def start(address, number, seed=0, **settings):
    """Starts a process that joins another one and compares its seed with it."""
    environment = multihost.environment(address, 2, number)
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(seed)],
        env={**environment, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Returns the status of a process, its output, and its `error:` lines."""
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    return process.returncode, output.splitlines()[-1:], lines


def test_two_processes_join_and_agree():
    address = multihost.free_address()
    processes = [start(address, number) for number in (0, 1)]
    for number, process in enumerate(processes):
        assert ended(process) == (0, [f"({number}, 2)"], [])


def test_processes_that_differ_are_refused():
    address = multihost.free_address()
    processes = [start(address, number, seed=number) for number in (0, 1)]
    for process in processes:
        status, _, (line,) = ended(process)
        assert status == 2
        assert "seed: 0 in process 0, 1" in line
        assert "arch" not in line


@pytest.mark.parametrize("number", [0, 1])
def test_an_absent_process(number):
    process = start(multihost.free_address(), number, KERAS_NAM_JOIN_TIMEOUT="1")
    status, _, (line,) = ended(process)
    assert status == 2
    assert f"Process {number} waited 1 s" in line


def test_two_processes_train_as_one_device(tmp_path, monkeypatch):
    """Test_strategies has the same with ResNet-18 (`slow`)."""
    one, two, program = tmp_path / "one", tmp_path / "two", tmp_path / "train.py"
    monkeypatch.setattr(network, "initial_model", small_network.initial_model)
    train.main([*OPTIONS, "--run-dir", str(one)])
    program.write_text(TRAIN)
    environment = {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles faster
    }
    launch = [sys.executable, "-c", small_network.LAUNCH, str(program), "--processes", "2", "--"]
    subprocess.run(
        [*launch, *OPTIONS, "--run-dir", str(two)],
        env={**os.environ, **environment},
        check=True,
        timeout=300,
    )
    (ours,), (theirs,) = (files.read_history(folder / "history.csv") for folder in (two, one))
    for key in ("loss", "top1", "val_loss", "val_top1", "learning_rate"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4)
    assert (two / "last.keras").is_file()


@pytest.fixture
def place(monkeypatch):
    """Returns a function that sets the variables of a process; `None` unsets one."""

    def set_place(*values):
        for name, value in zip(multihost.NAMES, values, strict=True):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_place


@pytest.mark.parametrize(
    ("address", "processes", "process"),
    [
        (None, "2", "0"),
        ("127.0.0.1", "2", "0"),
        ("127.0.0.1:port", "2", "0"),
        ("127.0.0.1:70000", "2", "0"),
        ("127.0.0.1:4000", "2", None),
        ("127.0.0.1:4000", "2", "2"),
        ("127.0.0.1:4000", "2", "-1"),
    ],
)
def test_a_wrong_place(place, monkeypatch, address, processes, process):
    place(address, processes, process)
    monkeypatch.setattr(multihost, "choose_backend", lambda: None)
    with pytest.raises(InputError, match="HOST:PORT"):
        multihost.join(print)


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "tensorflow")
    with pytest.raises(InputError, match="KERAS_BACKEND is tensorflow"):
        multihost.choose_backend()


def test_a_single_process_has_nobody_to_join(place, monkeypatch):
    place(None, None, None)
    monkeypatch.setattr(multihost, "choose_backend", lambda: None)
    assert multihost.join(print) == (0, 1)
    multihost.agree({"seed": 0})
