"""Times, and an evaluation that is not finite."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import events
from tests.support.networks import small_network
from tests.support.small_run import history, run
from training import evaluate, recipes
from training.cli import FailedError
from training.fitting import callbacks, network
from training.fitting.job import train
from training.jobs import Job
from training.runs import files


class Clock(keras.callbacks.Callback):
    """A clock by which a step takes 2 s, a batch of the evaluation 1 s and all else nothing."""

    now = 100.0

    def on_train_batch_end(self, batch, logs=None):
        self.now += 2

    def on_test_batch_end(self, batch, logs=None):
        self.now += 1


@pytest.mark.parametrize("before", [0.0, 5.0])
def test_times_follow_the_clock(tmp_path, monkeypatch, before):
    clock = Clock()
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock.now)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names = {"top1": 1, "top5": 5}
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(k, name) for name, k in names.items()]
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    x, y = np.ones((16, 2)), np.arange(16) % 6
    recorded = callbacks.History(
        tmp_path, [], recipes.get("fast"), len(x), lambda step: 0.5 * step, before
    )
    model.fit(
        x, y, 4, epochs=2, verbose=0, validation_data=(x[:8], y[:8]), callbacks=[clock, recorded]
    )
    first, second = files.read_history(tmp_path / "history.csv")
    assert (first["seconds"], second["seconds"]) == (before + 4 * 2 + 2, 4 * 2 + 2)
    assert second["images_per_second"] == 16 / 8
    assert first["images_per_second"] == pytest.approx(16 / (8 + before), rel=1e-6)
    assert (first["learning_rate"], second["learning_rate"]) == (0.5 * 4, 0.5 * 8)


@keras.saving.register_keras_serializable("tests")
class NotFiniteInInference(keras.layers.Layer):
    """As a normalization whose statistics have not settled, in float16: NaN for some images."""

    def call(self, x, training=False):
        bright = keras.ops.mean(x, (1, 2, 3), keepdims=True) > 0
        return x if training else keras.ops.where(bright, math.nan, x)


@pytest.fixture
def not_finite(monkeypatch):
    """Makes trainings fit a network whose evaluation is NaN, whatever it has learned."""
    monkeypatch.setattr(
        network,
        "initial_model",
        lambda job, classes: small_network.initial_model(job, classes, NotFiniteInInference()),
    )


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{path} is not JSON: {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_an_evaluation_that_is_not_finite_is_a_warning_and_in_the_end_status_1(
    tmp_path, not_finite, capsys
):
    folder = tmp_path / "run"
    with pytest.raises(FailedError, match=r"test set.*null.*--precision"):
        run(folder)
    output = capsys.readouterr().out
    for epoch in (1, 2, 3):
        assert f"warning: the evaluation after epoch {epoch} is not finite" in output
    assert [math.isnan(row["val_loss"]) for row in history(folder)] == [True] * 3
    for row in files.read_history(folder / "history.csv"):
        assert np.isfinite([row["loss"], row["seconds"]]).all()
    assert strict_json(folder / "result.json")["loss"] is None
    strict_json(folder / "config.json")
    assert (folder / "curves.png").stat().st_size > 0
    assert tf.saved_model.contains_saved_model(folder / "saved_model" / "1")

    # The gates' statistics leave out what is not finite.
    written = events.read(folder / "tensorboard" / "train")
    (histograms,) = (series for tag, series in written.items() if tag.startswith("8 gate values/"))
    assert np.isfinite(histograms[1]).all()
    assert histograms[1][:, 2].sum() > 0
    (means,) = (series for tag, series in written.items() if tag.startswith("4 gate mean/"))
    assert 0 < means[1] < 1

    with pytest.raises(FailedError, match=r"logits of \d+ of 500 images"):
        evaluate.main([str(folder)])
    assert "top-1" in capsys.readouterr().out
    assert (folder / "mistakes.png").stat().st_size > 0
    with pytest.raises(FailedError, match="test set"):
        run(folder, "--resume")
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_resumes_after_an_evaluation_that_is_not_finite(
    lean, tmp_path, not_finite, signal_after
):
    signal_after(5, 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", "--epochs", "2", "--checkpoint-every", "3")
    run(tmp_path / "run", "--epochs", "2", "--checkpoint-every", "3", "--resume")
    run(tmp_path / "whole", "--epochs", "2")
    ours, theirs = ([row["loss"] for row in history(tmp_path / f)] for f in ("run", "whole"))
    assert ours == theirs


def test_own_callbacks_see_each_epoch(tmp_path, lean):
    """As docs/training.md has it: `train(Job(...), callbacks=[...])`."""
    seen, names = [], {"loss", "top1", "top5", "val_loss", "val_top1", "val_top5"}

    class Tracker(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, names <= set(logs)))

    recipe = recipes.get("fast", epochs=2, batch_size=64)
    job = Job("r18w4_nam", "fast", recipe, dataset="synthetic", steps_per_epoch=2, quiet=True)
    train(dataclasses.replace(job, run_dir=str(tmp_path / "run")), callbacks=[Tracker()])
    assert seen == [(0, True), (1, True)]
