"""kill -9 during a training: no file is half-written, and --resume gives the uninterrupted run.

    FAULTS_KILLS=100 python -m pytest -m faults tests/faults/test_kill_training.py -k random

kills at 100 random moments instead of 4.
"""

import json
import os
import random
import zipfile

import pytest

from tests.faults.attempts import STEPS, Attempt, assert_equal_runs, assert_whole
from tests.faults.child import Moment
from tests.support import small_network

pytestmark = [pytest.mark.slow, pytest.mark.faults]
KILLED = -9
KILLS = int(os.environ.get("FAULTS_KILLS", "4"))
EVERY = 2  # steps between two checkpoints

# One training is killed at each of them in turn, before the last event of the line.
AIMED = [
    ["os.rename config.json"],
    ["training.step 2", "zip.member .last.writing.keras", "zip.member .last.writing.keras"],
    ["training.step 2", "os.rename last.keras"],
    ["training.step 4", "os.rename history.csv"],
    ["training.step 4", "os.rename previous.keras"],
    ["training.step 4", "os.rename best.keras"],
    ["training.step 4", "os.remove .last.writing.keras"],
    ["training.step 12", "os.rename last.keras"],
    ["os.mkdir saved_model/.version-1.writing/assets"],
    ["os.rename saved_model/1"],
    ["os.rename result.json"],
    ["shutil.rmtree saved_model/.version-1.old", "os.remove saved_model", "os.remove saved_model"],
]


class Lineage:
    """A run that is killed and resumed.

    Args:
        folder: Path of the run folder.
        *more: Options of `training/train.py` beside those of every attempt.
        prepare: As `Attempt` takes it.

    Attributes:
        trained: The last step that was trained.
        repeated: The largest number of steps that were trained again after a kill.
    """

    def __init__(self, folder, *more, prepare=(small_network.replace_network,)):
        self.folder = folder
        self.more = more
        self.prepare = prepare
        self.trained = 0
        self.repeated = 0

    def attempt(self, moment=None, seconds=None):
        """Resumes the run until a moment, for some seconds, or to the end.

        Returns:
            Whether it was killed. If not, it has finished.
        """
        attempt = Attempt(self.folder, *self.more, "--resume", moment=moment, prepare=self.prepare)
        status = attempt.wait() if seconds is None else attempt.kill_after(seconds)
        assert status in (0, KILLED), attempt.errors
        if attempt.steps:
            self.repeated = max(self.repeated, self.trained + 1 - attempt.steps[0])
            self.trained = attempt.steps[-1]
        assert_whole(self.folder)
        return status == KILLED

    def events_left(self, events):
        """Returns about how many of an uninterrupted run's events are still to come."""
        if not (self.folder / "last.keras").exists():
            return len(events)
        with zipfile.ZipFile(self.folder / "last.keras") as archive:
            position = json.loads(archive.read("training.json"))
        step = position["epochs"] * STEPS + position["steps"]
        saved = events.index("os.rename last.keras", events.index(f"training.step {step}"))
        return len(events) - saved - 1


def test_aimed(uninterrupted, tmp_path):
    """Between writing a file and renaming it, within an archive, and so on."""
    lineage = Lineage(tmp_path / "run", "--checkpoint-every", str(EVERY))
    for lines in AIMED:
        assert lineage.attempt(Moment(tuple(lines))), f"the moment did not come: {lines}"
    assert not lineage.attempt()
    assert lineage.repeated <= EVERY
    assert_equal_runs(lineage.folder, uninterrupted.folder)


def test_random(seed, uninterrupted, tmp_path):
    """Half of the moments are seconds, half are events in the run folder."""
    rng = random.Random(seed)
    killed = runs = 0
    while killed < KILLS:
        runs += 1
        lineage = Lineage(tmp_path / f"run{runs}", "--checkpoint-every", str(EVERY))
        while kill(rng, lineage, uninterrupted):
            killed += 1
        assert lineage.repeated <= EVERY
        assert_equal_runs(lineage.folder, uninterrupted.folder)


def kill(rng, lineage, uninterrupted):
    """Resumes a run until a random moment; returns whether it came before the end."""
    if rng.random() < 0.5:
        seconds = uninterrupted.seconds * (0.8 if lineage.trained else 1)
        return lineage.attempt(seconds=rng.uniform(0, seconds))
    number = rng.randint(1, lineage.events_left(uninterrupted.events))
    delay = rng.choice([0, rng.uniform(0, 0.5)])
    print(f"{lineage.folder.name}: at event {number}, {delay:.3f} s later")
    return lineage.attempt(Moment(("",) * number, delay))


def test_at_most_one_epoch_is_repeated_without_other_checkpoints(seed, uninterrupted, tmp_path):
    lineage = Lineage(tmp_path / "run")
    step = STEPS + random.Random(seed).randint(1, STEPS)
    assert lineage.attempt(Moment((f"training.step {step}",)))
    assert not lineage.attempt()
    assert 0 < lineage.repeated <= STEPS
    assert_equal_runs(lineage.folder, uninterrupted.folder)


def test_a_network_of_eighteen_layers(seed, tmp_path):
    """ResNet-18 instead of the small network, killed once after random seconds."""
    more = ["--epochs", "1", "--checkpoint-every", "1"]
    reference = Attempt(tmp_path / "uninterrupted", *more, prepare=())
    assert reference.wait() == 0, reference.errors
    lineage = Lineage(tmp_path / "run", *more, prepare=())
    seconds = random.Random(seed).uniform(reference.seconds / 2, reference.seconds)
    lineage.attempt(seconds=seconds)
    assert not lineage.attempt()
    assert lineage.repeated <= 1
    assert_equal_runs(lineage.folder, tmp_path / "uninterrupted")
