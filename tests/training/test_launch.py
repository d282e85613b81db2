"""The launcher, with stand-ins for train.py: what each process is told, and how all of them end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training import launch
from training.cli import InputError

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "stand_in_worker.py"
LAUNCH = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from training import cli, launch
launch.TRAIN = Path({str(STAND_IN)!r})
"""
SHOW = """
import json
names = ["KERAS_BACKEND", "SLURM_LOCALID", *(n for n in os.environ if n.startswith("KERAS_D"))]
print(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]))
"""
# A process that ignores signals, as does the one that it has started.
DEAF = """
import subprocess
program = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
(FOLDER / "child").write_text(child.stdout.readline().strip())
while True: time.sleep(0.1)
"""
TWO = ("--processes", "2")


def start(folder, *argv, do=(), settings="", stdout=subprocess.PIPE, **environment):
    """Starts the launcher; process I runs the code do[I] in place of a training."""
    environment |= {f"DO_{number}": text for number, text in enumerate(do)}
    return subprocess.Popen(
        [sys.executable, "-c", f"{LAUNCH}{settings}\ncli.run(lambda: launch.main({list(argv)}))"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FOLDER": str(folder), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        start_new_session=True,
    )


def finish(process):
    """Returns the status, the lines of output, and the lines of standard error."""
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in errors
    return process.returncode, (output or "").splitlines(), errors.splitlines()


def launched(folder, *argv, **options):
    return finish(start(folder, *argv, **options))


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_started(folder, *names):
    return lambda: all((folder / name).exists() for name in names)


def is_running(folder, name):
    """Whether the process whose id a file holds exists, and is not a zombie."""
    try:
        stat = Path(f"/proc/{(folder / name).read_text()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_each_process_gets_its_place_and_the_options(tmp_path):
    status, lines, errors = launched(
        tmp_path,
        *[*TWO, "--", "--arch", "r18w8"],
        do=[SHOW, SHOW],
        KERAS_BACKEND="tensorflow",
        SLURM_LOCALID="0",
    )
    assert (status, errors) == (0, [])
    addresses, numbers = set(), set()
    for line in lines:
        number, _, content = line.partition(" ")
        arguments, environment = json.loads(content)
        assert arguments == ["--arch", "r18w8", "--strategy", "multihost", "--quiet"]
        addresses.add(environment.pop("KERAS_DISTRIBUTION_JOB_ADDRESSES"))
        numbers.add(number)
        assert environment == {
            "KERAS_BACKEND": "jax",
            "SLURM_LOCALID": None,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": number.strip("[]"),
        }
    assert numbers == {"[0]", "[1]"}
    (address,) = addresses
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)


def test_one_process_of_a_cluster(tmp_path):
    place = ("--processes", "4", "--coordinator", "node0:1234", "--process-id", "3")
    status, (line,), _ = launched(tmp_path, *place, do=[""] * 3 + [SHOW])
    number, _, content = line.partition(" ")
    _, environment = json.loads(content)
    assert (status, number) == (0, "[3]")
    assert environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] == "node0:1234"
    assert environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] == "4"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_pinned_processes_share_no_core(tmp_path):
    count = min(2, len(os.sched_getaffinity(0)))
    show = "print(*os.sched_getaffinity(0))"
    status, lines, _ = launched(tmp_path, f"--processes={count}", "--pin", do=[show] * count)
    cores = [set(line.split()[1:]) for line in lines]
    assert (status, len(cores)) == (0, count)
    assert len(set.union(*cores)) == sum(map(len, cores)) >= count


ONE_OF_TWO = [*TWO, "--coordinator", "node0:1234", "--process-id"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--processes", "0"], "Process 0 of 0"),
        ([*ONE_OF_TWO, "2"], "Process 2 of 2"),
        ([*ONE_OF_TWO, "-1"], "Process -1 of 2"),
        ([*TWO, "--process-id", "0"], "--coordinator"),
        ([*ONE_OF_TWO, "1", "--pin"], "--pin"),
        (["--processes", "5000", "--pin"], "--processes 5000 --pin"),
        ([*TWO, "--", "--strategy", "none"], "--strategy none"),
        ([*TWO, "--arch", "r18"], "--arch"),
        ([*TWO, "--", "--epoch-count", "3"], "--epoch-count"),
    ],
)
def test_options_that_do_not_fit_together(argv, message):
    with pytest.raises(InputError, match=message):
        launch.read(argv)


def test_an_address_is_a_host_and_a_port():
    for address in ("node0:1234", "10.0.0.1:1", "[::1]:65535"):
        assert launch.read([*TWO, f"--coordinator={address}"]).coordinator == address
    wrong = ["node0", "node0:", ":1", "node0:http", "node0:0", "node0:65536", "::1:1", "http://a:1"]
    for address in wrong:
        with pytest.raises(InputError, match=f"coordinator {re.escape(address)}: .*HOST:PORT"):
            launch.read([*TWO, f"--coordinator={address}"])


def test_lines_stay_whole_and_a_progress_bar_leaves_its_last_state(tmp_path):
    bar = r"os.write(1, b'\r1/3\r2/3\r3/3 done \xff\n  indented\r\n')" + "\n"
    many = "for i in range(3000): print('{}' * 100)\nprint('the end', end='')"
    status, lines, _ = launched(tmp_path, *TWO, do=[bar + many.format("a"), many.format("b")])
    assert status == 0
    assert lines.count("[0] " + 100 * "a") == lines.count("[1] " + 100 * "b") == 3000
    rest = [line for line in lines if not re.fullmatch(r"\[0\] a{100}|\[1\] b{100}", line)]
    assert sorted(rest) == ["[0]   indented", "[0] 3/3 done \udcff", "[0] the end", "[1] the end"]


ERROR = "print('error: No data.')\nprint('INFO: after')\n"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (f"{ERROR}sys.exit(143)", 143, "failed with status 143: No data."),
        (f"{ERROR}os.kill(os.getpid(), 9)", 1, "died of SIGKILL: No data."),
        # Without such a line, the last line is the reason.
        ("print('ValueError: no\\n', file=sys.stderr); sys.exit(2)", 2, "status 2: ValueError: no"),
    ],
)
def test_the_first_failure_stops_all(tmp_path, code, status, reason):
    found, lines, (error,) = launched(tmp_path, *TWO, do=["wait()", f"wait_for('0')\n{code}"])
    assert found == status
    assert all(line.startswith("[1] ") for line in lines)
    assert error.startswith("error: process 1 ")
    assert error.endswith(reason)
    assert (tmp_path / "0.SIGTERM").exists()


@pytest.mark.parametrize(
    ("number", "child", "status", "word"),
    [
        (signal.SIGTERM, "SIGTERM", 143, "terminated"),
        (signal.SIGHUP, "SIGTERM", 143, "terminated"),
        (signal.SIGINT, "SIGINT", 130, "interrupted"),
    ],
)
def test_a_signal_reaches_every_process_once(tmp_path, number, child, status, word):
    process = start(tmp_path, *TWO, do=["wait()", "wait()"])
    until(has_started(tmp_path, "0", "1"))
    os.killpg(process.pid, number)  # as a terminal does
    assert finish(process) == (status, [], [word])
    for name in ("0", "1"):
        assert (tmp_path / f"{name}.{child}").read_text() == "x"
        assert not is_running(tmp_path, name)


def test_nohup(tmp_path):
    ignoring = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    process = start(tmp_path, "--processes", "1", do=["wait_for('go')"], settings=ignoring)
    until(has_started(tmp_path, "0"))
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert finish(process) == (0, [], [])


def test_a_failure_after_sigterm_is_reported(tmp_path):
    full = "\nwhile not signals: time.sleep(0.02)\nprint('error: No space left.')\nsys.exit(2)"
    process = start(tmp_path, *TWO, do=[full, "wait()"])
    until(has_started(tmp_path, "0", "1"))
    process.terminate()
    status, _, errors = finish(process)
    assert status == 143
    assert errors == ["terminated; process 0 failed with status 2: No space left."]


def test_a_child_that_a_process_leaves_ends_with_it(tmp_path):
    leave = """
import subprocess
(FOLDER / "child").write_text(str(subprocess.Popen(["sleep", "300"]).pid))
"""
    assert launched(tmp_path, "--processes", "1", do=[leave]) == (0, [], [])
    until(lambda: not is_running(tmp_path, "child"))


def test_a_process_that_does_not_end_is_killed_with_its_children(tmp_path):
    settings = "launch.GRACE = 1"
    process = start(tmp_path, *TWO, do=[DEAF, "wait()"], settings=settings)
    until(has_started(tmp_path, "child", "1"))
    process.terminate()
    status, _, (error,) = finish(process)
    assert (status, error) == (143, "terminated; process 0 died of SIGKILL: no output")
    assert (tmp_path / "0.SIGTERM").exists()
    until(lambda: not is_running(tmp_path, "child"))


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    process = start(tmp_path, "--processes", "1", do=[DEAF])
    until(has_started(tmp_path, "child"))
    process.send_signal(signal.SIGINT)
    until(has_started(tmp_path, "0.SIGINT"))
    process.send_signal(signal.SIGINT)
    assert finish(process)[::2] == (130, ["interrupted; process 0 died of SIGKILL: no output"])


def test_closed_output_stops_all(tmp_path):
    reading, writing = os.pipe()
    process = start(tmp_path, *TWO, do=["print(1)\nwait()"] * 2, stdout=writing)
    os.close(reading)
    os.close(writing)
    status, _, errors = finish(process)
    assert (status, errors) == (1, ["error: the output cannot be written: Broken pipe"])
