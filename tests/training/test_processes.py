"""Processes that belong together: what they say, and that the end of one is the end of all."""

import os
import re
import signal

import pytest
from launch_session import finish, is_running, launched, start, until


def test_lines_stay_whole_and_progress_bars_leave_their_last(tmp_path):
    bar = r"os.write(1, b'\r1/3\r2/3\r3/3 done \xff\n  indented\r\n')" + "\n"
    many = "for i in range(3000): print('{}' * 100)\nprint('the end', end='')"
    status, lines, _ = launched(
        tmp_path,
        *["--processes", "2"],
        do=[bar + many.format("a"), many.format("b")],
    )
    assert status == 0
    assert lines.count("[0] " + 100 * "a") == lines.count("[1] " + 100 * "b") == 3000
    rest = [line for line in lines if not re.fullmatch(r"\[0\] a{100}|\[1\] b{100}", line)]
    assert sorted(rest) == [
        "[0]   indented",
        "[0] 3/3 done \udcff",
        "[0] the end",
        "[1] the end",
    ]


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("sys.exit(2)", 2, "failed with status 2: No data."),
        ("sys.exit(1)", 1, "failed with status 1: No data."),
        ("sys.exit(143)", 143, "failed with status 143: No data."),
        ("sys.exit(7)", 1, "failed with status 7: No data."),
        ("os.kill(os.getpid(), 9)", 1, "died of signal 9 (Killed): No data."),
    ],
)
def test_the_first_failure_stops_all(tmp_path, code, status, reason):
    fail = f"wait_for('0')\nprint('error: No data.')\nprint('INFO: after')\n{code}"
    found = launched(tmp_path, "--processes", "2", do=["wait()", fail])
    assert found[0] == status
    assert found[1] == ["[1] error: No data.", "[1] INFO: after"]
    assert found[2] == [f"error: process 1 {reason}"]
    assert (tmp_path / "0.SIGTERM").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit(1)", "failed with status 1: it said last: ValueError: no"),
        ("os.kill(os.getpid(), 6)", "died of signal 6 (Aborted)"),
    ],
)
def test_without_an_error_line_the_last_line_is_the_reason(tmp_path, code, reason):
    fail = f"print('ValueError: no', file=sys.stderr, flush=True); print(flush=True); {code}"
    _, _, errors = launched(tmp_path, "--processes", "2", do=["wait()", fail])
    assert errors == [f"error: process 1 {reason}"]


@pytest.mark.parametrize(
    ("number", "child", "status", "word"),
    [
        (signal.SIGTERM, "SIGTERM", 143, "terminated"),
        (signal.SIGHUP, "SIGTERM", 143, "terminated"),
        (signal.SIGINT, "SIGINT", 130, "interrupted"),
    ],
)
def test_a_signal_reaches_every_process_once(tmp_path, number, child, status, word):
    process = start(tmp_path, "--processes", "2", do=["wait()", "wait()"])
    until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    os.killpg(process.pid, number)  # as a terminal does
    assert finish(process) == (status, [], [f"{word}: all processes have ended"])
    for name in ("0", "1"):
        assert (tmp_path / f"{name}.{child}").read_text() == "x"
        assert not is_running(tmp_path, name)


def test_nohup(tmp_path):
    ignoring = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    go_on = "wait_for('go')"
    process = start(tmp_path, "--processes", "1", do=[go_on], limits=ignoring)
    until(lambda: (tmp_path / "0").exists())
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert finish(process) == (0, [], [])


def test_a_failure_while_it_is_stopped_is_told(tmp_path):
    full = "\nwhile not signals: time.sleep(0.02)\nprint('error: No space left.')\nsys.exit(2)"
    process = start(tmp_path, "--processes", "2", do=[full, "wait()"])
    until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    process.terminate()
    status, _, errors = finish(process)
    assert status == 143
    assert errors == ["terminated: process 0 failed with status 2: No space left."]


DEAF = """
import subprocess
program = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
(FOLDER / "child").write_text(child.stdout.readline().strip())
print("deaf")
while True: time.sleep(0.1)
"""


def test_what_a_process_leaves_behind_ends_with_it(tmp_path):
    leave = """
import subprocess
child = subprocess.Popen(["sleep", "300"])
(FOLDER / "child").write_text(str(child.pid))
"""
    assert launched(tmp_path, "--processes", "1", do=[leave]) == (0, [], [])
    until(lambda: not is_running(tmp_path, "child"))


def test_what_does_not_end_is_killed_with_what_it_started(tmp_path):
    process = start(tmp_path, "--processes", "2", "--patience", "0.5", do=[DEAF, "wait()"])
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "1").exists())
    process.terminate()
    status, _, errors = finish(process)
    assert status == 143
    assert errors == ["terminated: process 0 did not end and had to be killed"]
    assert (tmp_path / "0.SIGTERM").exists()
    until(lambda: not is_running(tmp_path, "child"))


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    process = start(tmp_path, "--processes", "1", "--patience", "1000", do=[DEAF])
    until(lambda: (tmp_path / "child").exists())
    process.send_signal(signal.SIGINT)
    until(lambda: (tmp_path / "0.SIGINT").exists())
    process.send_signal(signal.SIGINT)
    status, _, errors = finish(process)
    assert (status, errors) == (130, ["interrupted: process 0 did not end and had to be killed"])


def test_no_process_survives_a_killed_launch(tmp_path):
    process = start(tmp_path, "--processes", "2", do=[DEAF, "wait()"])
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "1").exists())
    assert is_running(tmp_path, "0")
    process.kill()
    until(lambda: not is_running(tmp_path, "0") and not is_running(tmp_path, "1"))
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    process.communicate()


def test_an_error_that_hangs_is_a_failure(tmp_path):
    """JAX's end waits for the other processes, which wait for this one."""
    hang = "print('error: No data.')\nwhile True: time.sleep(0.1)"
    status, _, errors = launched(
        tmp_path,
        *["--processes", "2", "--patience", "0.2"],
        do=["wait()", hang],
        limits="processes.HANG = 0.2",
    )
    assert (status, errors) == (1, ["error: process 1 hung after: No data."])
    assert (tmp_path / "0.SIGTERM").exists()


def test_the_others_may_end_before_process_0_but_not_run_on_after_it(tmp_path):
    limits = "processes.LINGER = 0.3"
    slow = "wait_for('1')\ntime.sleep(1)"
    found = launched(tmp_path, "--processes", "2", do=[slow, ""], limits=limits)
    assert found == (0, [], [])
    status, _, errors = launched(tmp_path, "--processes", "2", do=["", "wait()"], limits=limits)
    assert (status, errors) == (1, ["error: process 1 ran on after the end of process 0"])


def test_closed_output_stops_all(tmp_path):
    reading, writing = os.pipe()
    process = start(tmp_path, "--processes", "2", do=["print(1)\nwait()"] * 2, stdout=writing)
    os.close(reading)
    os.close(writing)
    status, _, errors = finish(process)
    assert (status, errors) == (1, ["error: the output cannot be written: Broken pipe"])
