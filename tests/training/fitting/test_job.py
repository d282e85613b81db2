"""A whole training on the synthetic set: its run folder, reproduction, resumption, bad input."""

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
from tests.support.golden_modules import relative_error
from tests.support.small_run import history, run
from training import recipes
from training.cli import InputError
from training.data import streams
from training.runs import files as runs
from training.runs import report


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


def test_run_folder_is_whole(finished):
    files = {path.name for path in finished.iterdir()}
    assert files == {
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
    assert config["environment"]["versions"]["tensorflow"] == tf.__version__


def test_history_has_a_row_an_epoch(finished):
    with open(finished / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == runs.HISTORY_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_result_and_history_are_those_of_the_saved_weights(finished):
    result = json.loads((finished / "result.json").read_text())
    (*_, last) = history(finished)
    model = keras.saving.load_model(finished / "best.keras")
    assert not model.compiled
    recipe = recipes.get("fast")
    test = streams.load("synthetic").test
    logits = model.predict(streams.normalize(test.images, recipe.mean, recipe.std), verbose=0)
    ranks = (logits > logits[np.arange(500), test.labels][:, None]).sum(1)
    for key, expected in (("top1", np.mean(ranks < 1)), ("top5", np.mean(ranks < 5))):
        assert result[key] == pytest.approx(expected, abs=1e-6)
        assert last[f"val_{key}"] == pytest.approx(expected, abs=1e-6)
    log_softmax = tf.nn.log_softmax(logits).numpy()[np.arange(500), test.labels]
    assert result["loss"] == pytest.approx(-log_softmax.mean(), rel=1e-4)


def test_evaluate_measures_what_the_training_did(finished):
    """With the run's own mean and deviation, which are not those of the default recipe."""
    result = runs.read_json(finished / "result.json")
    scores = report.report(finished, "test", False, None, "paddle", "cifar100")
    for key in ("loss", "top1", "top5"):
        assert scores[key] == pytest.approx(result[key], abs=1e-5, rel=1e-5)
    (finished / "mistakes.png").unlink()


def test_the_checkpoint_loads_with_the_library_alone(finished):
    """As Keras' documentation says, in another process that knows nothing of training."""
    code = (
        "import sys, keras, keras_nam; m = keras.saving.load_model(sys.argv[1]); "
        "print(m.name, m.output_shape, 'training' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(finished / "best.keras")],
        env={**os.environ, "PYTHONPATH": str(Path(keras_nam.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == ["r18w8_nam", "(None,", "10)", "False"]


def test_times_are_within_those_of_the_files(finished):
    """The first file and the last one stand around all epochs."""
    rows = runs.read_history(finished / "history.csv")
    begin, end = ((finished / name).stat().st_mtime for name in ("config.json", "result.json"))
    seconds = [row["seconds"] for row in rows]
    assert 0 < sum(seconds) < end - begin
    for row in rows:
        assert row["images_per_second"] > 4 * 64 / row["seconds"]  # without the evaluation
    minutes = runs.read_json(finished / "result.json")["minutes"]
    assert minutes == pytest.approx(sum(seconds) / 60, abs=0.01)


def test_saved_model_answers_as_the_keras_model(finished):
    served = tf.saved_model.load(str(finished / "saved_model" / "1"))
    model = keras.saving.load_model(finished / "best.keras")
    recipe = recipes.get("fast")
    images = streams.load("synthetic").test.images[:5]
    expected = model(streams.normalize(images, recipe.mean, recipe.std), training=False)
    outputs = served.signatures["serving_default"](image=tf.constant(images, tf.float32))
    # Float32 rounding, of logits that are above 100 after so few steps.
    assert relative_error(outputs["logits"], expected) < 1e-5
    np.testing.assert_allclose(tf.reduce_sum(outputs["probabilities"], 1), np.ones(5), atol=1e-6)
    pictures = tf.stack([tf.io.encode_png(image) for image in images])
    of_bytes = served.signatures["serving_bytes"](image_bytes=pictures)
    assert relative_error(of_bytes["logits"], expected) < 1e-5


def test_finished_run_says_which_settings_changed(finished):
    with pytest.raises(InputError, match=r"momentum: 0\.9 there, 0\.5 now"):
        run(finished, "--resume", "--momentum", "0.5")


def test_finished_run_is_not_trained_again(finished, capsys):
    before = (finished / "result.json").stat().st_mtime_ns
    run(finished, "--resume")
    assert (finished / "result.json").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "Continue it with --resume"),
        (["--resume", "--learning-rate", "0.1"], r"learning_rate: 0.4 there, 0.1 now"),
        (["--resume", "--seed", "3"], r"seed: 0 there, 3 now"),
    ],
)
def test_existing_folder(finished, more, message):
    interrupted = finished / "result.json"
    content = interrupted.read_text()
    interrupted.unlink()
    try:
        with pytest.raises(InputError, match=message):
            run(finished, *more)
    finally:
        interrupted.write_text(content)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arch", "r50_namm"], "Did you mean 'r50_nam'"),
        (["--recipe", "fsat"], "Did you mean 'fast'"),
        (["--dataset", "cifar1000"], "Did you mean 'cifar100'"),
        (["--precision", "mixed_float61"], "Did you mean 'mixed_float16'"),
        (["--strategy", "mirror"], "Did you mean 'mirrored'"),
        (["--epochs", "0"], "--epochs 0: expected a number above 0"),
        (["--epochs", "-3"], "--epochs -3"),
        (["--steps-per-epoch", "0"], "--steps-per-epoch 0"),
        (["--batch-size", "2001"], "--batch-size 2001: expected 1 to 2000"),
        (["--validation-split", "1"], "--validation-split 1"),
        (["--augment", "random_corp"], "Did you mean 'random_crop'"),
        (["--dataset", "cifar100", "--data-dir", "/nowhere"], "/nowhere"),
        (["--stem", "cfar"], "Unknown stem 'cfar'; there are cifar, imagenet"),
        (["--mean", "0.5"], "--mean"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()
