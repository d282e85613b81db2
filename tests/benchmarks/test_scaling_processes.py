"""The processes that the benchmark of scaling asks."""

import os

import pytest

from benchmarks import scaling_processes
from training.cli import FailedError, InputError


@pytest.fixture
def program(tmp_path):
    """A training that answers with its number, its core and what it is asked; or ends."""
    path = tmp_path / "program.py"
    path.write_text(
        "import json, os, sys\n"
        "number = int(os.environ['KERAS_DISTRIBUTION_PROCESS_ID'])\n"
        "for line in sys.stdin:\n"
        "    if json.loads(line)['do'] == 'fail' and number == 1:\n"
        "        sys.exit('error: the disk is full')\n"
        "    answer = [number, sorted(os.sched_getaffinity(0)), sys.argv[1], json.loads(line)]\n"
        "    print(json.dumps(answer), flush=True)\n"
    )
    return path


def test_processes_answer_from_their_cores(program, tmp_path):
    core = min(os.sched_getaffinity(0))
    start = [[core], ["argument"], tmp_path, program]
    with (
        scaling_processes.Training("one", *start) as one,
        scaling_processes.Training("two", [core, core], *start[1:]) as two,
    ):
        answers = scaling_processes.ask(one, two, do="train")
        assert answers == [[0, [core], "argument", {"do": "train"}]] * 2
        with pytest.raises(FailedError, match="process 1 of the training 'two' ended: error: the"):
            scaling_processes.ask(two, do="fail")
    assert all(process.returncode == -9 for process in one.processes)


def test_one_core_is_refused(monkeypatch):
    monkeypatch.setattr(scaling_processes.launch.os, "sched_getaffinity", lambda process: {3})
    with pytest.raises(
        InputError, match=r"Two processes need a core each .*2 processes and 1 core"
    ):
        scaling_processes.two_cores()
