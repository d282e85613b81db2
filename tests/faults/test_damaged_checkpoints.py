"""A checkpoint is damaged on the disk: the training resumes from an earlier one, with a warning."""

import os
import random
import shutil

import keras
import pytest

from tests.faults.attempts import STEPS, Attempt, assert_equal_runs
from tests.faults.child import Moment
from training.cli import InputError
from training.fitting import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def empty(path):
    os.truncate(path, 0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed in its third epoch: last.keras is of step 10, previous.keras of step 8."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    moment = Moment((f"training.step {2 * STEPS + 3}",))
    assert Attempt(folder, "--checkpoint-every", "2", moment=moment).wait() == -9
    return folder


@pytest.fixture
def run(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "run")


def resume(run):
    attempt = Attempt(run, "--checkpoint-every", "2", "--resume")
    assert attempt.wait() == 0, attempt.errors
    return attempt


def test_the_newest(run, uninterrupted):
    flip(run / "last.keras")
    attempt = resume(run)
    assert f"warning: {run / 'last.keras'} is damaged" in attempt.output
    assert str(run / "previous.keras") in attempt.output
    assert attempt.steps[0] == 2 * STEPS + 1
    assert_equal_runs(run, uninterrupted.folder)


def test_the_two_that_have_an_optimizer(run):
    """To begin anew would overwrite the best weights: that is for a person to say."""
    flip(run / "last.keras")
    truncate(run / "previous.keras")
    best = (run / "best.keras").read_bytes()
    attempt = Attempt(run, "--checkpoint-every", "2", "--resume")
    assert attempt.wait() == 2
    assert f"{run / 'best.keras'} is undamaged" in attempt.error_line()
    assert (run / "best.keras").read_bytes() == best


def test_all(run, uninterrupted):
    for path in run.glob("*.keras"):
        flip(path)
    attempt = resume(run)
    assert "warning: No checkpoint is whole" in attempt.output
    assert attempt.steps[0] == 1
    assert_equal_runs(run, uninterrupted.folder)


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_each_kind_of_damage_is_found(run, damage):
    damage(run / "last.keras")
    _, position, warnings = checkpoints.load_newest(run)
    assert (position.epochs, position.steps) == (2, 0)
    assert "damaged" in warnings[0]


def test_one_byte_anywhere(run, seed, monkeypatch):
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
        checkpoints.newest_position(run)
        path, position, _ = checkpoints.load_newest(run)
        whole = path.name == "last.keras"
        found.append(whole)
        assert (position.epochs, position.steps) == ((2, 2) if whole else (2, 0)), place
    assert 0 < sum(found) < len(found) / 2


def test_undamaged_ones_that_cannot_be_loaded_are_not_overwritten(run, monkeypatch):
    """As after a change of versions."""

    def refuse(path):
        raise TypeError("Could not locate class 'NAM'")

    monkeypatch.setattr(keras.saving, "load_model", refuse)
    with pytest.raises(InputError, match=r"Could not locate.*versions"):
        checkpoints.load_newest(run)
