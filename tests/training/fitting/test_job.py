"""A whole training on the synthetic set: its run folder and its SavedModel; refused settings."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from tests.support.small_run import history, run
from tests.support.weights.golden_modules import relative_error
from training import recipes, train
from training.cli import FailedError, InputError
from training.data import datasets, streams
from training.fitting import job as fitting
from training.fitting import resolve
from training.jobs import Job, read_job
from training.runs import files, report

RECIPE = recipes.get("fast")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


def test_run_folder_is_whole(finished):
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        "config.json",
        "history.csv",
        "curves.png",
        "last.keras",
        "previous.keras",
        "best.keras",
        "tensorboard",
        "saved_model",
        "result.json",
    }
    config = json.loads((finished / "config.json").read_text())
    assert config["arch"] == "r18w8_nam"
    assert config["recipe_settings"]["batch_size"] == 64
    assert config["steps_per_epoch"] == 4
    assert (config["classes"], config["training_images"]) == (10, 2000)
    assert config["environment"]["versions"]["tensorflow"] == tf.__version__
    with open(finished / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == files.HISTORY_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_times_fit_the_dates_of_the_files(finished):
    """The first file and the last one stand around all epochs."""
    rows = files.read_history(finished / "history.csv")
    begin, end = ((finished / name).stat().st_mtime for name in ("config.json", "result.json"))
    seconds = [row["seconds"] for row in rows]
    assert 0 < sum(seconds) < end - begin
    for row in rows:
        assert row["images_per_second"] > 4 * 64 / row["seconds"]  # without the evaluation
    minutes = files.read_json(finished / "result.json")["minutes"]
    assert minutes == pytest.approx(sum(seconds) / 60, abs=0.01)


def test_result_history_and_savedmodel_are_of_the_saved_weights(finished):
    result = files.read_json(finished / "result.json")
    (*_, last) = history(finished)
    model = keras.saving.load_model(finished / "best.keras")
    assert not model.compiled
    test = datasets.load("synthetic").test
    logits = model.predict(streams.normalize(test.images, RECIPE.mean, RECIPE.std), verbose=0)
    ranks = (logits > logits[np.arange(500), test.labels][:, None]).sum(1)
    for key, expected in (("top1", np.mean(ranks < 1)), ("top5", np.mean(ranks < 5))):
        assert result[key] == pytest.approx(expected, abs=1e-6)
        assert last[f"val_{key}"] == pytest.approx(expected, abs=1e-6)
    log_softmax = tf.nn.log_softmax(logits).numpy()[np.arange(500), test.labels]
    assert result["loss"] == pytest.approx(-log_softmax.mean(), rel=1e-4)

    served = tf.saved_model.load(str(finished / "saved_model" / "1"))
    images = test.images[:5]
    outputs = served.signatures["serving_default"](image=tf.constant(images, tf.float32))
    # Float32 rounding, of logits that are above 100 after so few steps.
    assert relative_error(outputs["logits"], logits[:5]) < 1e-5
    np.testing.assert_allclose(tf.reduce_sum(outputs["probabilities"], 1), np.ones(5), atol=1e-6)
    pictures = tf.stack([tf.io.encode_png(image) for image in images])
    of_bytes = served.signatures["serving_bytes"](image_bytes=pictures)
    assert relative_error(of_bytes["logits"], logits[:5]) < 1e-5


def test_evaluate_measures_what_the_training_did(finished):
    """With the run's own mean and deviation, which differ from the default recipe's."""
    result = files.read_json(finished / "result.json")
    scores = report.report(finished, "test", False, None, None, None)
    for key in ("loss", "top1", "top5"):
        assert scores[key] == pytest.approx(result[key], abs=1e-5, rel=1e-5)
    (finished / "mistakes.png").unlink()
    for given in (("paddle", None), (None, "cifar100")):
        with pytest.raises(InputError, match="is a run, which has its own"):
            report.report(finished, "test", False, None, *given)


def test_the_checkpoint_loads_with_the_library_alone(finished):
    """As Keras' documentation says, in another process without `training`, on another backend."""
    code = (
        "import sys, keras, keras_nam; m = keras.saving.load_model(sys.argv[1]); "
        "print(m.name, m.output_shape, 'training' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(keras_nam.__file__).parents[1]), "KERAS_BACKEND": "numpy"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(finished / "best.keras")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == ["r18w8_nam", "(None,", "10)", "False"]


def test_a_finished_run_is_not_trained_again(finished, capsys):
    before = (finished / "result.json").stat().st_mtime_ns
    run(finished, "--resume")
    assert (finished / "result.json").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--resume"),
        (["--resume", "--momentum", "0.5"], r"momentum: 0\.9 there, 0\.5 now"),
        (["--resume", "--seed", "3"], r"seed: 0 there, 3 now"),
    ],
)
def test_an_existing_folder_keeps_its_settings(finished, tmp_path, is_finished, more, message):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ["config.json", *(["result.json"] if is_finished else [])]:
        (folder / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(InputError, match=message):
        run(folder, *more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arch", "r50_namm"], "'r50_nam'"),
        (["--recipe", "fsat"], "'fast'"),
        (["--batch-size", "2001"], "--batch-size 2001: expected 1 to 2000"),
        (["--augment", "random_corp"], "'random_crop'"),
        (["--augment", "random_crop:mode=reflect,padding=40"], "padding=40 cannot be applied"),
        (["--dataset", "cifar100", "--data-dir", "/nowhere"], "/nowhere"),
        (["--mean", "0.5"], "--mean"),
        (["--progressive-sizes", "7", "32"], r"-sizes \(7, 32\): expected sizes of 8 or more"),
        (["--progressive-sizes", "32", "16"], r"-sizes \(32, 16\): expected 32, .* the last"),
        (["--progressive-sizes", "16", "64"], r"-sizes \(16, 64\): expected 32, .* the last"),
        (["--arch", "r18_nam_full", "--progressive-sizes", "16", "32"], "nam_full .*-sizes"),
        (["--arch", "r18_nam_spatial", "--progressive-sizes", "8", "32"], "spatial .*-sizes"),
        (["--patience", "2"], "--patience: .*--validation-split"),
        (["--augment", "random_flip", "random_resized_crop"], "as the first"),
        (["--image-size", "32", "48", "--progressive-sizes", "16", "32"], "--progressive-sizes"),
        (["--freeze", "bm"], "--freeze bm"),
        (["--freeze", "stages:5"], "fewer stages"),
        (["--freeze-epochs", "1"], "--freeze "),
        (["--decay-exempt", "_nan"], "--decay-exempt _nan: .*such as"),
        (["--decay-exempt", "_nam", "--optimizer", "adamw"], "sgd or muon"),
        (["--arch", "r18_se", "--gain", "2"], "1.0, since r18_se has no NAM gate"),
        (["--arch", "r18", "--gamma-penalty", "1e-3"], "0.001: expected 0.0, since r18 has"),
        (["--mean", "auto", "--std", "0.2", "0.2", "0.2"], "--std .*--mean auto"),
        (["--seed", "-1"], "--seed -1"),
        (["--dataset", "/no/such/folder"], "existing folder"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, more, message):
    with pytest.raises(InputError, match=message) as refused:
        run(tmp_path / "run", *more)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_another_backends_run_is_finished_with_the_epochs_that_fitted(tmp_path, monkeypatch):
    words = []
    monkeypatch.setattr(fitting.subprocess, "run", lambda command, env: words.extend(command[2:]))
    job = Job("r18_nam", "fast", recipes.get("fast", epochs=7), minutes=5.0, run_dir=str(tmp_path))
    with pytest.raises(FailedError, match="finishing failed"):
        fitting.finish_in_tensorflow(job)
    again = read_job(vars(train.parser().parse_args(words)))
    resolve.check(again)
    assert again.recipe.epochs == 7
