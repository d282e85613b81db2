"""The clock of the machine jumps during a training, whose durations do not depend on it."""

import functools

import pytest

from tests.faults.attempts import TIMES, Attempt, assert_equal_runs
from tests.faults.breakages import jumping_clock
from tests.support import small_network
from training.runs import files

pytestmark = [pytest.mark.slow, pytest.mark.faults]
YEAR = 365 * 24 * 3600.0


def test_back_an_hour_and_forward_a_year(uninterrupted, tmp_path):
    jump = functools.partial(jumping_clock, {3: -3600.0, 7: YEAR, 10: -3600.0})
    attempt = Attempt(tmp_path / "run", prepare=(small_network.replace_network, jump))
    assert attempt.wait() == 0, attempt.errors
    for row in files.read_history(tmp_path / "run" / "history.csv"):
        assert all(0 < row[key] < 1e6 for key in TIMES)
    minutes = files.read_json(tmp_path / "run" / "result.json")["minutes"]
    assert 0 <= minutes <= attempt.seconds / 60 + 0.01
    assert_equal_runs(tmp_path / "run", uninterrupted.folder)
    assert files.newest_finished(tmp_path) == tmp_path / "run"
