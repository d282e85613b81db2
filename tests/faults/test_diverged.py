"""Weights become NaN: one line, status 1, and no checkpoint holds them."""

import functools

import numpy as np
import pytest

from tests.faults.attempts import Attempt, assert_equal_runs, variables
from tests.faults.breakages import nan_in_the_weights
from tests.support import small_network

pytestmark = [pytest.mark.slow, pytest.mark.faults]


# NaN weights after step 7 give a NaN loss at step 8. After step 8, the last of an epoch, and after
# step 6, which has a checkpoint, they would be saved before a loss shows them.
@pytest.mark.parametrize(
    ("step", "message", "kept"),
    [
        (7, "The loss became nan at step 8.", 6),
        (8, "not finite after step 8.", 6),
        (6, "not finite after step 6.", 4),
    ],
)
def test_nan(uninterrupted, tmp_path, step, message, kept):
    more = ["--checkpoint-every", "2"]
    prepare = (small_network.replace_network, functools.partial(nan_in_the_weights, step))
    attempt = Attempt(tmp_path / "run", *more, prepare=prepare)
    assert attempt.wait() == 1
    line = attempt.error_line()
    assert message in line
    assert all(option in line for option in ("--resume", "--learning-rate", "--run-dir"))
    for path in (tmp_path / "run").glob("*.keras"):
        assert all(np.isfinite(value).all() for value in variables(path))

    # Without the fault, which a machine may have once.
    attempt = Attempt(tmp_path / "run", *more, "--resume")
    assert attempt.wait() == 0, attempt.errors
    assert attempt.steps[0] == kept + 1
    assert_equal_runs(tmp_path / "run", uninterrupted.folder)


def test_nan_before_the_first_checkpoint(tmp_path):
    prepare = (small_network.replace_network, functools.partial(nan_in_the_weights, 1))
    attempt = Attempt(tmp_path / "run", prepare=prepare)
    assert attempt.wait() == 1
    assert "The loss became nan at step 2." in attempt.error_line()
    assert not list((tmp_path / "run").glob("*.keras"))
