"""Faults of several processes: each ends all of them, soon, with one line that says why."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attempts import history

ROOT = Path(__file__).parents[2]
TRAIN = ["--arch", "r18w4", "--recipe", "fast", "--dataset", "synthetic"]
TRAIN += ["--batch-size", "32", "--epochs", "3", "--steps-per-epoch", "6"]
pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables with which the launches compile one step once, and without needless passes."""
    return {
        **os.environ,
        "KERAS_NAM_JOIN_TIMEOUT": "30",
        "XLA_FLAGS": "--xla_backend_optimization_level=1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture
def launch(environment):
    """A function that starts launch.py; what still runs at the end of a test is ended."""
    started = []

    def start(*options, train, **settings):
        process = subprocess.Popen(
            [sys.executable, "training/launch.py", *map(str, options), "--", *map(str, train)],
            cwd=ROOT,
            env={**environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()  # and with it those that it has started
        process.wait()


def ended(process, timeout=400):
    """Returns status, error lines and output of a launch; none of its processes is left."""
    children = children_of(process)
    output, errors = process.communicate(timeout=timeout)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    return process.returncode, lines, output


def children_of(process):
    try:
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in text.split()]


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def read_until(process, text):
    """Reads the output up to a line with the text."""
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before {text!r}: {process.stderr.read()[-2000:]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    """The history of a training without a fault."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    command = ["training/launch.py", "--processes", "2", "--", *TRAIN, "--run-dir", str(folder)]
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True, timeout=400)
    return history(folder)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_nothing_is_lost(launch, whole, tmp_path, victim):
    """Killed in the second epoch; the same line with --resume ends as a run without a fault."""
    train = [*TRAIN, "--run-dir", tmp_path / "run"]
    process = launch("--processes", "2", train=train)
    read_until(process, "Epoch 2/3")
    time.sleep(0.2)
    os.kill(children_of(process)[victim], signal.SIGKILL)
    status, lines, _ = ended(process, timeout=120)
    assert status == 1
    assert len(lines) == 1
    assert (tmp_path / "run" / "last.keras").is_file()

    process = launch("--processes", "2", train=[*train, "--resume"])
    assert ended(process)[:2] == (0, [])
    for ours, theirs in zip(history(tmp_path / "run"), whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_sigterm_makes_one_checkpoint_of_all(launch, tmp_path):
    process = launch("--processes", "2", train=[*TRAIN, "--run-dir", tmp_path / "run"])
    read_until(process, "Epoch 2/3")
    process.send_signal(signal.SIGTERM)
    status, lines, output = ended(process)
    assert (status, lines) == (143, [])
    kept = [line for line in output.splitlines() if "--resume continues there" in line]
    assert len(kept) == 2
    assert kept[0].split("terminated:")[1] == kept[1].split("terminated:")[1]


@pytest.mark.parametrize(("number", "expected"), [(1, "No first process at"), (0, "not all 2")])
def test_an_absent_process_is_one_line(launch, tmp_path, number, expected):
    options = ("--processes", 2, "--coordinator", free_address(), "--process-id", number)
    train = [*TRAIN, "--run-dir", tmp_path / "run"]
    status, lines, _ = ended(launch(*options, train=train, KERAS_NAM_JOIN_TIMEOUT="5"))
    assert status == 2
    assert expected in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_number_that_is_taken_ends_all(launch, tmp_path):
    """Three start, two of them as process 1."""
    options = ("--processes", 2, "--coordinator", free_address(), "--process-id")
    train = [*TRAIN, "--run-dir", tmp_path / "run"]
    processes = [launch(*options, number, train=train) for number in (0, 1, 1)]
    found = [ended(process) for process in processes]
    assert all(status in (1, 2) for status, _, _ in found)
    assert any("another has its number" in "".join(lines) for _, lines, _ in found)
    assert not (tmp_path / "run" / "last.keras").exists()


def test_processes_with_unlike_settings_are_refused(launch, tmp_path):
    options = ("--processes", 2, "--coordinator", free_address(), "--process-id")
    train = [*TRAIN, "--run-dir", tmp_path / "run"]
    processes = [launch(*options, n, train=[*train, "--seed", n]) for n in (0, 1)]
    for process in processes:
        status, lines, _ = ended(process)
        assert status in (1, 2)
        assert len(lines) == 1
    assert "unlike process 0: seed: 0 in process 0, 1" in lines[0]
    assert not (tmp_path / "run").exists()
