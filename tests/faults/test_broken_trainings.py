"""NaN weights, damaged checkpoints, a second training: what stays, and that the run resumes."""

import functools
import random
import shutil
import signal

import keras
import numpy as np
import pytest

from tests.faults.attempts import (
    STEPS,
    Attempt,
    assert_equal_runs,
    contents,
    variables,
)
from tests.faults.child import Moment, after_each_step
from tests.support.networks import small_network
from training.cli import InputError
from training.fitting import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.faults]
EVERY = ["--checkpoint-every", "2"]


def nan_in_the_weights(step):
    """Makes the first kernel NaN after a step, and so the loss of the next one."""

    def spoil(model, done):
        if done == step:
            model.weights[0].assign(np.full(model.weights[0].shape, np.nan))

    after_each_step(spoil)


# NaN weights after step 7 give a NaN loss at step 8. After step 8, the last of an epoch, and after
# step 6, which has a checkpoint, they would be saved before a loss shows them.
@pytest.mark.parametrize(
    ("step", "message", "kept"),
    [(7, "loss became nan at step 8", 6), (6, "not finite after step 6", 4)],
)
def test_nan_is_in_no_checkpoint(uninterrupted, tmp_path, step, message, kept):
    spoil = functools.partial(nan_in_the_weights, step)
    prepare = (small_network.replace_network, spoil)
    attempt = Attempt(tmp_path / "run", *EVERY, prepare=prepare)
    assert attempt.wait() == 1
    line = attempt.error_line()
    assert message in line
    assert all(option in line for option in ("--resume", "--learning-rate", "--run-dir"))
    for path in (tmp_path / "run").glob("*.keras"):
        assert all(np.isfinite(value).all() for value in variables(path))

    # Without the fault, which a machine may have once.
    attempt = Attempt(tmp_path / "run", *EVERY, "--resume")
    assert attempt.wait() == 0, attempt.errors
    assert attempt.steps[0] == kept + 1
    assert_equal_runs(tmp_path / "run", uninterrupted.folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed in its third epoch: last.keras is of step 10, previous.keras of step 8."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    moment = Moment((f"training.step {2 * STEPS + 3}",))
    assert Attempt(folder, *EVERY, moment=moment).wait() == -signal.SIGKILL
    return folder


@pytest.fixture
def run(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "run")


def test_one_damaged_byte_anywhere_in_a_checkpoint(run, seed, monkeypatch):
    """Bytes without a checksum, such as dates, may change; any other change is found."""
    rng = random.Random(seed)
    content = (run / "last.keras").read_bytes()
    directory = content.rindex(b"PK\x01\x02", 0, len(content) - 200)
    places = [rng.randrange(len(content)) for _ in range(300)]
    places += range(directory, len(content))
    monkeypatch.setattr(keras.saving, "load_model", lambda path: path)
    found = []
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= rng.randrange(1, 256)
        (run / "last.keras").write_bytes(damaged)
        path, position, _ = checkpoints.load_newest(run)
        whole = path.name == "last.keras"
        found.append(whole)
        assert (position.epochs, position.steps) == ((2, 2) if whole else (2, 0)), place
    assert 0 < sum(found) < len(found) / 2


def test_undamaged_checkpoints_that_cannot_be_loaded_are_not_overwritten(run, monkeypatch):
    """As after a change of versions."""

    def refuse(path):
        raise TypeError("Could not locate class 'NAM'")

    monkeypatch.setattr(keras.saving, "load_model", refuse)
    with pytest.raises(InputError, match=r"Could not locate.*versions"):
        checkpoints.load_newest(run)


def test_a_second_training_is_refused_until_the_first_is_killed(uninterrupted, tmp_path):
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


def test_a_second_training_is_refused_before_the_first_has_its_settings(tmp_path):
    moment = Moment(("os.rename config.json",), signal=signal.SIGSTOP)
    first = Attempt(tmp_path / "run", moment=moment)
    first.wait_until_stopped()
    before = contents(tmp_path / "run")
    second = Attempt(tmp_path / "run", "--seed", "1")
    assert second.wait() == 2
    assert "Another training" in second.error_line()
    assert contents(tmp_path / "run") == before
    first.kill_after(0)
