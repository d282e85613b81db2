"""Two trainings in one run folder: a lock refuses the second, and ends with the first process."""

import signal

import pytest

from tests.faults.attempts import Attempt, assert_equal_runs, contents
from tests.faults.child import Moment

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


@pytest.mark.parametrize("moment", ["open .config.writing.json", "os.rename config.json"])
def test_the_second_is_refused_before_the_first_has_its_settings(tmp_path, moment):
    first = Attempt(tmp_path / "run", moment=Moment((moment,), signal=signal.SIGSTOP))
    first.wait_until_stopped()
    before = contents(tmp_path / "run")
    second = Attempt(tmp_path / "run", "--seed", "1")
    assert second.wait() == 2
    assert "Another training" in second.error_line()
    assert contents(tmp_path / "run") == before
    first.kill_after(0)
