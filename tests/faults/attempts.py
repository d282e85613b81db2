"""Attempts at a training, most of which are killed, and assertions about the files they leave."""

import json
import multiprocessing
import tempfile
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_nam  # noqa: F401 - registers the layers of a .keras file
from tests.faults import child
from tests.support.networks import small_network
from tests.support.small_run import history
from training import train
from training.runs import files

ARGUMENTS = ["--arch", "r18w4_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "32", "--steps-per-epoch", "4", "--epochs", "3", "--strategy", "none"]
STEPS = 4  # an epoch
LONGEST = 180  # seconds
CHECKPOINTS = ("last.keras", "previous.keras", "best.keras")
NAMES = {".lock", "config.json", "history.csv", "curves.png", "tensorboard", "saved_model",
         "result.json", *CHECKPOINTS}  # fmt: skip
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.child"])


class Attempt:
    """A process that trains into a folder.

    Args:
        folder: Path of the run folder.
        *more: Options of `training/train.py` beside `ARGUMENTS`.
        moment: `child.Moment` at which it sends itself a signal, or `None`.
        prepare: Functions that it calls first.
        command: `main` function of another command than the training.
        arguments: List of strings, used in place of `ARGUMENTS`.
    """

    def __init__(
        self,
        folder,
        *more,
        moment=None,
        prepare=(small_network.replace_network,),
        command=train.main,
        arguments=ARGUMENTS,
    ):
        self.folder = folder
        self.log = Path(tempfile.mkdtemp(prefix="attempt-", dir=folder.parents[1])) / "log"
        if command is train.main:
            arguments = [*arguments, "--run-dir", str(folder), *more]
        self.process = FORKS.Process(
            target=child.run, args=(command, arguments, folder, self.log, moment, prepare)
        )
        self.started = time.monotonic()
        self.process.start()

    def wait(self, seconds=LONGEST):
        """Returns the exit status, negative for a signal; fails if it does not end in time."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"no end after {seconds} s; its output:\n{self.output}")
        self.seconds = time.monotonic() - self.started
        return self.process.exitcode

    def kill_after(self, seconds):
        """Kills it after some seconds, if it has not ended; returns the exit status."""
        self.process.join(seconds)
        self.process.kill()
        return self.wait()

    def wait_until_stopped(self):
        """Waits until the process has stopped itself (SIGSTOP)."""
        deadline = time.monotonic() + LONGEST
        while self.process.is_alive() and time.monotonic() < deadline:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] == "T":
                return
            time.sleep(0.02)
        raise AssertionError(f"it did not stop: {self.output}{self.errors}")

    @property
    def output(self):
        """Its standard output."""
        return Path(f"{self.log}.out").read_text()

    @property
    def errors(self):
        """Its standard error."""
        return Path(f"{self.log}.err").read_text()

    @property
    def steps(self):
        """The numbers of the steps that it trained, from 1."""
        events = self.log.read_text().splitlines() if self.log.exists() else []
        return [int(line.split()[1]) for line in events if line.startswith("training.step")]

    def error_line(self):
        """Returns its one `error:` line; fails if there is a traceback."""
        assert "Traceback" not in self.errors, self.errors
        lines = [line for line in self.errors.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.errors
        return lines[0]


def assert_whole(folder):
    """Asserts that each file in a run folder that has its final name is complete."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()}
    assert names <= NAMES | {name for name in names if ".writing" in name}
    for name in names & set(CHECKPOINTS):
        with zipfile.ZipFile(folder / name) as archive:
            assert archive.testzip() is None
        keras.saving.load_model(folder / name)
    for name in names & {"config.json", "result.json"}:
        json.loads((folder / name).read_text())
    for row in files.read_history(folder / "history.csv"):
        assert tuple(row) == files.HISTORY_COLUMNS
    if "curves.png" in names:
        Image.open(folder / "curves.png").load()
    for version in (folder / "saved_model").glob("[0-9]*"):
        classes = logits(version).shape[1]
        assert (version / "assets" / "labels.txt").read_text().count("\n") == classes
        assert (version / "assets.extra" / "tf_serving_warmup_requests").stat().st_size


def assert_equal_runs(folder, reference):
    """Asserts that a finished run equals the uninterrupted one bit for bit, except for times."""
    assert_whole(folder)
    for part in ("", "saved_model"):
        names = {path.name for path in (folder / part).iterdir()}
        assert names == {path.name for path in (reference / part).iterdir()}
    assert history(folder) == history(reference)
    for name in ("best.keras", "last.keras"):
        for ours, theirs in zip(variables(folder / name), variables(reference / name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    version = Path("saved_model") / "1"
    np.testing.assert_array_equal(logits(folder / version), logits(reference / version))
    ours, theirs = (files.read_json(run / "result.json") for run in (folder, reference))
    assert {**ours, "minutes": None} == {**theirs, "minutes": None}


def variables(path):
    """Returns the variables of a checkpoint, and of its optimizer if it has one."""
    model = keras.saving.load_model(path)
    optimizer = getattr(model, "optimizer", None)
    values = [*model.variables, *(optimizer.variables if optimizer else ())]
    return [np.asarray(value) for value in values]


def contents(folder):
    """Returns the bytes of each file under a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def logits(version):
    """Returns a SavedModel's logits of 16 random images."""
    images = np.random.default_rng(0).uniform(0, 255, (16, 32, 32, 3)).astype(np.float32)
    served = tf.saved_model.load(str(version))
    return np.asarray(served.signatures["serving_default"](image=tf.constant(images))["logits"])
