"""The command line of launch: what each process is told, and what is refused before any starts."""

import json
import os
import re
import subprocess
import sys

import pytest
from launch_session import ROOT, launched

from training import launch, processes
from training.cli import InputError

SHOW = """
import json
names = ["KERAS_BACKEND", "SLURM_LOCALID", *(n for n in os.environ if n.startswith("KERAS_D"))]
print(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]))
"""


def shown(lines):
    """Returns {number: (arguments, environment)} of processes that ran SHOW."""
    found = {}
    for line in lines:
        number, _, content = line.partition(" ")
        found[number] = json.loads(content)
    return found


def test_each_process_is_told_which_it_is(tmp_path):
    status, lines, errors = launched(
        tmp_path,
        *["--processes", "2", "--", "--arch", "r18w8", "--seed", "3"],
        do=[SHOW, SHOW],
        KERAS_BACKEND="tensorflow",
        SLURM_LOCALID="0",
    )
    assert (status, errors) == (0, [])
    found = shown(lines)
    assert set(found) == {"[0]", "[1]"}
    addresses = set()
    for number, (arguments, environment) in found.items():
        wanted = ["--strategy", "multihost", "--quiet", "--arch", "r18w8", "--seed", "3"]
        assert arguments == wanted
        addresses.add(environment.pop("KERAS_DISTRIBUTION_JOB_ADDRESSES"))
        assert environment == {
            "KERAS_BACKEND": "jax",
            "SLURM_LOCALID": None,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": number.strip("[]"),
        }
    assert re.fullmatch(r"127\.0\.0\.1:\d+", addresses.pop())
    assert not addresses


def test_one_process_of_many_machines(tmp_path):
    status, lines, _ = launched(
        tmp_path,
        *["--processes", "4", "--coordinator", "node0:1234", "--process-id", "3"],
        *["--", "--strategy=auto", "--quiet"],
        do=[""] * 3 + [SHOW],
    )
    assert status == 0
    ((number, (arguments, environment)),) = shown(lines).items()
    assert number == "[3]"
    assert arguments == ["--strategy=auto", "--quiet"]
    assert environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] == "node0:1234"
    assert environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] == "4"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_pinned_processes_share_no_core(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 3, 5, 9})
    assert launch.shares(2) == [[2, 3], [5, 7]]
    assert launch.shares(1) == [[2, 3, 5, 7, 9]]
    with pytest.raises(InputError, match="6 processes and 5 cores"):
        launch.shares(6)
    monkeypatch.undo()
    show = "print(sorted(os.sched_getaffinity(0)))"
    count = min(2, len(os.sched_getaffinity(0)))
    status, lines, _ = launched(tmp_path, f"--processes={count}", "--pin", do=[show] * count)
    assert status == 0
    assert sorted(lines) == [f"[{i}] {cores}" for i, cores in enumerate(launch.shares(count))]


ONE_OF_TWO = ["--processes", "2", "--coordinator", "node0:1234", "--process-id"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--processes", "0"], "--processes 0: expected 1 or more."),
        ([*ONE_OF_TWO, "2"], "--process-id 2 of --processes 2: expected 0 to 1."),
        ([*ONE_OF_TWO, "-1"], "--process-id -1 of --processes 2: expected 0 to 1."),
        (["--processes", "2", "--process-id", "0"], "--process-id 0 without --coordinator"),
        ([*ONE_OF_TWO, "1", "--pin"], "--pin shares out this machine's cores"),
        (["--processes", "2", "--patience", "-1"], "--patience -1.0: expected a number"),
        (["--processes", "2", "--patience", "nan"], "--patience nan: expected a number"),
        (["--processes", "2", "--arch", "r18"], "launch.py --processes 2 -- --arch r18"),
        (["--processes", "2", "--", "--strategy", "none"], "--strategy none is of one process"),
        (["--processes", "2", "--", "--strategy=mirrored"], "--strategy mirrored is of one"),
    ],
)
def test_bad_input_before_anything_starts(argv, message, monkeypatch):
    monkeypatch.setattr(processes, "run_together", lambda *_: pytest.fail("started"))
    with pytest.raises(InputError, match=re.escape(message)):
        launch.main(argv)


@pytest.mark.parametrize(
    "address",
    ["node0", "node0:", ":1234", "node0:http", "node0:0", "node0:65536", "::1:1234", "http://a:1"],
)
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(InputError, match=re.escape(f"--coordinator {address}: expected HOST:PORT")):
        launch.read(["--processes", "2", f"--coordinator={address}"])


@pytest.mark.parametrize("address", ["node0:1234", "10.0.0.1:1", "[::1]:65535"])
def test_addresses_that_are(address):
    assert launch.read(["--processes", "2", f"--coordinator={address}"]).coordinator == address


def test_options_that_train_does_not_have_start_nothing(monkeypatch):
    monkeypatch.setattr(processes, "run_together", lambda *_: pytest.fail("started"))
    with pytest.raises(InputError, match="option --epoch-count"):
        launch.main(["--processes", "2", "--", "--epoch-count", "3"])


def test_help_imports_nothing_heavy():
    code = "import sys; from training import launch; launch.parser().format_help(); "
    code += "print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(found.stdout.split())
    assert "training.launch" in modules
    assert not modules & {"tensorflow", "keras", "jax", "numpy", "rich"}
