"""Which epoch's weights `best.keras` holds, and that the result is theirs."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.support.networks import small_network
from tests.support.small_run import run
from training.data import datasets, streams
from training.fitting import checkpoints, network
from training.jobs import Job
from training.recipes import FAST
from training.runs import files

NAN, INF = math.nan, math.inf


def logs_of(epoch):
    """Returns Keras' logs, float32 numbers, of an epoch's loss and top-1."""
    loss, top1 = epoch
    return {"val_loss": loss, "val_top1": float(np.float32(top1))}


@pytest.mark.parametrize(
    ("epochs", "best", "has_validation"),
    [
        ([(1, 0.3), (1, 0.7), (1, 0.5)], 1, True),
        ([(1, 0.7), (1, 0.3), (1, 0.7)], 2, True),
        ([(NAN, 0.9), (1, 0.5), (1, 0.4)], 1, True),
        ([(1, 0.5), (INF, 0.9), (1, NAN)], 0, True),
        ([(NAN, 0.5)] * 3, 2, True),
        ([(1, 0.7), (1, 0.3), (1, 0.2)], 2, False),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_best_is_the_epoch_of_the_highest_validation_top1(
    tmp_path, epochs, best, has_validation, resumed
):
    """Each epoch's loss and top-1; its weights are its number. With or without an interruption."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    job = Job(run_dir=str(tmp_path), steps_per_epoch=4)

    def start(epoch):
        rows = []
        history = SimpleNamespace(rows=rows)
        history.on_epoch_end = lambda epoch, logs: rows.append(
            {"epoch": epoch + 1, **{key: float(f"{value:.7g}") for key, value in logs.items()}}
        )
        for number, logs in enumerate(map(logs_of, epochs[:epoch])):
            history.on_epoch_end(number, logs)
        position = checkpoints.Position(epoch)
        started = checkpoints.Checkpoint(
            job, model, history, position, choose_best=has_validation, ends=lambda step: False
        )
        started.set_model(model)
        return started

    checkpoint = start(0)
    for epoch, logs in enumerate(map(logs_of, epochs)):
        if resumed and epoch == 2:
            checkpoint = start(epoch)
        model.set_weights([np.full(weight.shape, epoch) for weight in model.get_weights()])
        checkpoint.on_epoch_begin(epoch)
        checkpoint.on_epoch_end(epoch, logs)
    assert keras.saving.load_model(tmp_path / "best.keras").get_weights()[0][0, 0] == best
    last, position, _ = checkpoints.load_newest(tmp_path)
    assert last.get_weights()[0][0, 0] == len(epochs) - 1
    assert position.epochs == len(epochs)


def test_the_result_is_of_the_best_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "initial_model", small_network.initial_model)
    figures, seen = [0.7, 0.3, 0.2], []
    evaluate = keras.Model.evaluate

    def evaluated(self, *args, **kwargs):
        seen.append(self.get_weights())
        return {**evaluate(self, *args, **kwargs), "top1": figures[len(seen) - 1]}

    monkeypatch.setattr(keras.Model, "evaluate", evaluated)
    run(tmp_path / "run", "--validation-split", "0.1")
    best = keras.saving.load_model(tmp_path / "run" / "best.keras")
    for ours, theirs in zip(best.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    test = datasets.load("synthetic").test
    logits = best.predict(streams.normalize(test.images, FAST.mean, FAST.std), verbose=0)
    result = files.read_json(tmp_path / "run" / "result.json")
    assert result["top1"] == pytest.approx(np.mean(logits.argmax(-1) == test.labels), abs=1e-6)
    assert result["split"] == "test (500 images)"
    config = files.read_json(tmp_path / "run" / "config.json")
    assert config["training_images"] == 1800
    assert config["held_out"] == "200 validation images"
