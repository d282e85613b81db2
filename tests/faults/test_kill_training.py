"""kill -9 during a training: no file is half-written, and --resume gives the uninterrupted run.

    FAULTS_KILLS=100 python -m pytest -m faults tests/faults/test_kill_training.py -k random

kills at 100 random moments instead of 4.
"""

import os
import random

import pytest

from tests.faults.attempts import Attempt, assert_equal_runs, assert_whole
from tests.faults.child import Moment

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

    Attributes:
        trained: The last step that was trained.
        repeated: The largest number of steps that were trained again after a kill.
    """

    def __init__(self, folder):
        self.folder = folder
        self.trained = 0
        self.repeated = 0

    def attempt(self, moment=None, seconds=None):
        """Resumes the run until a moment, for some seconds, or to the end.

        Returns:
            Whether it was killed. If not, it has finished.
        """
        more = ["--checkpoint-every", str(EVERY), "--resume"]
        attempt = Attempt(self.folder, *more, moment=moment)
        status = attempt.wait() if seconds is None else attempt.kill_after(seconds)
        assert status in (0, KILLED), attempt.errors
        if attempt.steps:
            self.repeated = max(self.repeated, self.trained + 1 - attempt.steps[0])
            self.trained = attempt.steps[-1]
        assert_whole(self.folder)
        return status == KILLED


def test_aimed(uninterrupted, tmp_path):
    """Between writing a file and renaming it, within an archive, and so on."""
    lineage = Lineage(tmp_path / "run")
    for lines in AIMED:
        assert lineage.attempt(Moment(tuple(lines))), f"the moment did not come: {lines}"
    assert not lineage.attempt()
    assert lineage.repeated <= EVERY
    assert_equal_runs(lineage.folder, uninterrupted.folder)


def test_random(seed, uninterrupted, tmp_path):
    rng = random.Random(seed)
    killed = runs = 0
    while killed < KILLS:
        runs += 1
        lineage = Lineage(tmp_path / f"run{runs}")
        while lineage.attempt(seconds=rng.uniform(0, uninterrupted.seconds)):
            killed += 1
        assert lineage.repeated <= EVERY
        assert_equal_runs(lineage.folder, uninterrupted.folder)
