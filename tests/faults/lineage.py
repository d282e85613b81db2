"""One run and the attempts that it took: each resumes what the one before, killed, had left."""

import json
import zipfile

import breakages
from attempts import Attempt, assert_whole

KILLED = -9


class Lineage:
    """A run that is killed and resumed.

    Args:
        folder: Path of the run folder.
        *more: Arguments of `training/train.py` besides those of every attempt.
        prepare: As `Attempt` takes it.

    Attributes:
        repeated: How many steps a kill made it train again, at most.
    """

    def __init__(self, folder, *more, prepare=(breakages.stand_in,)):
        self.folder = folder
        self.more = more
        self.prepare = prepare
        self.trained = 0
        self.repeated = 0

    def attempt(self, moment=None, seconds=None):
        """Goes on until a moment, or for some seconds, or to the end.

        Returns:
            Whether it was killed; else it finished.
        """
        attempt = Attempt(self.folder, *self.more, "--resume", moment=moment, prepare=self.prepare)
        status = attempt.wait() if seconds is None else attempt.kill_after(seconds)
        assert status in (0, KILLED), attempt.errors
        if attempt.steps:
            self.repeated = max(self.repeated, self.trained + 1 - attempt.steps[0])
            self.trained = attempt.steps[-1]
        assert_whole(self.folder)
        return status == KILLED

    def events_left(self, events, steps):
        """Returns about how many of an uninterrupted run's events are still before this one.

        Args:
            events: The log of the uninterrupted run.
            steps: Integer, the steps of an epoch.
        """
        if not (self.folder / "last.keras").exists():
            return len(events)
        with zipfile.ZipFile(self.folder / "last.keras") as archive:
            position = json.loads(archive.read("training.json"))
        kept = position["epochs"] * steps + position["steps"]
        saved = events.index("os.rename last.keras", events.index(f"training.step {kept}"))
        return len(events) - saved - 1
