"""Weights that become NaN: one line, status 1, and checkpoints that are as they were before."""

import functools

import numpy as np
import pytest
from attempts import STEPS, Attempt, assert_equal_runs, variables
from breakages import nan_in_the_weights, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.faults]


# The weights of step 7 give the loss of step 8; those of step 8, in the second epoch's last step,
# would be saved before any loss shows it, and so would those of step 6 with a checkpoint there.
@pytest.mark.parametrize(
    ("step", "every", "message", "kept"),
    [
        (7, 2, "The loss became nan at step 8.", 6),
        (8, 2, "Some weights are not finite after step 8.", 6),
        (6, 2, "Some weights are not finite after step 6.", 4),
    ],
)
def test_nan(uninterrupted, tmp_path, step, every, message, kept):
    more = ["--checkpoint-every", str(every)]
    spoil = functools.partial(nan_in_the_weights, step)
    attempt = Attempt(tmp_path / "run", *more, prepare=(stand_in, spoil))
    assert attempt.wait() == 1
    line = attempt.error_line()
    assert message in line
    assert "--resume tries again" in line
    assert "--learning-rate, in another --run-dir" in line
    for name in ("last.keras", "previous.keras", "best.keras"):
        for value in variables(tmp_path / "run" / name):
            assert np.isfinite(value).all()

    # A fault of the machine that does not come again.
    attempt = Attempt(tmp_path / "run", *more, "--resume")
    assert attempt.wait() == 0, attempt.errors
    assert attempt.steps[0] == kept + 1
    assert_equal_runs(tmp_path / "run", uninterrupted.folder)


def test_nan_before_the_first_checkpoint(tmp_path):
    spoil = functools.partial(nan_in_the_weights, 1)
    attempt = Attempt(tmp_path / "run", prepare=(stand_in, spoil))
    assert attempt.wait() == 1
    assert "The loss became nan at step 2." in attempt.error_line()
    assert STEPS > 2
    assert not list((tmp_path / "run").glob("*.keras"))
