"""What the tests share: comparisons with a stand-in for the trainings, small trainings."""

import functools
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support import small_run
from tests.support.networks import small_network
from training.fitting import progress

ROOT = Path(__file__).parents[2]
SETTINGS = ["--recipe", "fast", "--dataset", "synthetic", "--epochs", "3", "--batch-size", "64"]


@pytest.fixture(scope="session")
def load_once():
    """`datasets.load`, which loads a data set only once."""
    from training.data import datasets

    return functools.cache(datasets.load)


@pytest.fixture
def run(tmp_path, monkeypatch, load_once):
    """Function that compares into tmp_path, without a picture, and returns compare.json."""
    from tests.support import stand_in_train
    from training import compare
    from training.comparing import grid, report
    from training.data import datasets

    monkeypatch.setattr(datasets, "load", load_once)
    monkeypatch.setattr(report, "draw", lambda report, path: path.touch())
    monkeypatch.setattr(grid, "TRAIN", Path(stand_in_train.__file__))
    monkeypatch.setattr(grid, "POLL", 0.02)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def compare_into(*more, archs="r18w4,r18w4_nam", seeds="0", out="out", runs_dir="runs"):
        where = ["--out", str(tmp_path / out), "--runs-dir", str(tmp_path / runs_dir)]
        compare.main(["--archs", archs, "--seeds", seeds, *SETTINGS, *where, *more])
        return json.loads((tmp_path / out / "compare.json").read_text())

    return compare_into


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Folder of a finished comparison of seed 0, which the first `finished` fills."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def finished(run, prepared, tmp_path):
    """The `run` function, after the comparison of seed 0."""
    if not list(prepared.iterdir()):
        run()
        shutil.copytree(tmp_path, prepared, dirs_exist_ok=True)
    else:
        shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return run


@pytest.fixture(scope="module")
def lean():
    """Makes the trainings of a module fast, see `small_network`."""
    with pytest.MonkeyPatch.context() as patch:
        small_network.write_only_history_and_checkpoints(patch)
        yield


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Function: the folder and the history of a fast training with more options, made once."""

    @functools.cache
    def train(*more):
        folder = tmp_path_factory.mktemp("uninterrupted") / "run"
        with pytest.MonkeyPatch.context() as patch:
            small_network.write_only_history_and_checkpoints(patch)
            return folder, small_run.run(folder, *more)

    return train


@pytest.fixture
def signal_after(monkeypatch):
    """A function: sends a signal to this process after a step of a training."""
    original = progress.EpochLines.on_train_batch_end

    def send_after(step, number):
        def on_train_batch_end(self, batch, logs=None):
            original(self, batch, logs)
            if int(self.model.optimizer.iterations) == step:
                monkeypatch.setattr(progress.EpochLines, "on_train_batch_end", original)
                os.kill(os.getpid(), number)

        monkeypatch.setattr(progress.EpochLines, "on_train_batch_end", on_train_batch_end)

    return send_after
