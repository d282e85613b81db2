"""`--find-lr`: a sweep that suggests a learning rate, and trains nothing."""

import json
import types

import numpy as np
import pytest
from PIL import Image

from tests.support import small_run
from training import jobs, train
from training.cli import FailedError, InputError
from training.data import datasets
from training.fitting import find_rate, resolve

pytestmark = pytest.mark.usefixtures("lean")


def sweep(folder, *more):
    train.main([*small_run.ARGUMENTS, "--run-dir", str(folder), "--find-lr", *more])
    return folder.with_name(folder.name + "-lr")


def test_a_sweep_suggests_a_rate(tmp_path, capsys):
    folder = sweep(tmp_path / "run", "--progressive-sizes", "16", "32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-lr"]
    assert sorted(p.name for p in folder.iterdir()) == ["learning_rate.json", "learning_rate.png"]
    found = json.loads((folder / "learning_rate.json").read_text())
    rates, losses = found["learning_rates"], found["losses"]
    assert len(rates) == len(losses) <= find_rate.STEPS
    assert rates[0] == pytest.approx(find_rate.LOWEST)
    factors = np.divide(rates[1:], rates[:-1])
    np.testing.assert_allclose(factors, 1e7 ** (1 / find_rate.STEPS), rtol=1e-4)
    best = rates[int(np.argmin(losses))]
    assert found["suggested"] == pytest.approx(best / 5, rel=0.06)  # two digits
    assert min(losses) < 0.9 * losses[0]
    assert f"--learning-rate {found['suggested']:g}" in capsys.readouterr().out
    assert Image.open(folder / "learning_rate.png").size[0] > 300


def test_the_smoothed_losses(tmp_path, monkeypatch):
    """Of each step, without the bias of the first ones."""
    recorder = find_rate._Losses()
    of_steps = [4.0, 2.0, 3.0]
    for step in range(3):
        recorder.on_train_batch_end(step, {"loss": np.mean(of_steps[: step + 1])})
    weights = 0.9 ** np.arange(3)[::-1]
    expected = [np.dot(weights[-n:], of_steps[:n]) / weights[-n:].sum() for n in (1, 2, 3)]
    np.testing.assert_allclose(recorder.losses, expected, rtol=1e-6)


def test_a_first_loss_that_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(find_rate, "LOWEST", 1e30)
    monkeypatch.setattr(find_rate._Losses, "on_train_batch_end", stop)
    with pytest.raises(FailedError, match="not finite"):
        sweep(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def stop(self, batch, logs=None):
    self.model.stop_training = True


def test_one_process_sweeps():
    job = jobs.Job(dataset="synthetic", arch="r18w4", find_lr=True)
    placement = types.SimpleNamespace(shard=(0, 2))
    with pytest.raises(InputError, match="--find-lr: expected one process"):
        resolve.for_data(job, datasets.load("synthetic"), placement, print)
