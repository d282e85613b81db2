"""Two trainings in one run folder: a lock refuses the second, and ends with the first process."""

import signal

import pytest
from attempts import Attempt, assert_equal_runs, contents
from child import Moment

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def test_the_second_is_refused_until_the_first_is_killed(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    first = Attempt(folder, moment=Moment(("training.step 6",), signal=signal.SIGSTOP))
    first.wait_until_stopped()
    before = contents(folder)
    for more in ((), ("--resume",)):
        second = Attempt(folder, *more)
        assert second.wait() == 2, second.errors
        assert "--run-dir" in second.error_line()
        assert contents(folder) == before
    assert "Another training" in second.error_line()

    assert first.kill_after(0) == -signal.SIGKILL
    third = Attempt(folder, "--resume")
    assert third.wait() == 0, third.errors
    assert third.steps[0] == 5
    assert_equal_runs(folder, uninterrupted.folder)
