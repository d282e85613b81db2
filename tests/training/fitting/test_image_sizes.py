"""Progressive resizing: each size's epochs, one network of several sizes, its stream, its runs."""

import os
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from training import recipes, train
from training.cli import InputError, Terminated
from training.data import augment, streams
from training.fitting import callbacks, checkpoints, network
from training.fitting import job as fit
from training.runs import files
from training.runs import scores as evaluation

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.1942, 0.1918, 0.1958)
FLIP_AND_CROP = ["random_crop:mode=reflect", "random_flip"]
# Epochs of 16, 16 and 32 pixels, two steps each.
ARGUMENTS = ["--arch", "r18w4_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "64", "--steps-per-epoch", "2", "--epochs", "3", "--no-fold"]
ARGUMENTS += ["--strategy", "none", "--image-sizes", "16", "32", "--optimizer", "muon"]


@pytest.mark.parametrize("sizes", [(32,), (16, 32), (24, 16, 32), (8, 12, 20, 32)])
def test_each_size_has_its_share_and_the_full_one_is_last(sizes):
    for epochs in range(1, 40):
        recipe = recipes.get("fast", epochs=epochs, image_sizes=sizes)
        of_epochs = [recipe.image_size(epoch) for epoch in range(epochs)]
        counts = [of_epochs.count(size) for size in sizes]
        assert of_epochs == list(np.repeat(sizes, counts))  # in turn
        assert max(counts) - min(counts) <= 1
        assert counts[-1] == max(counts)
        assert sum(counts) == epochs


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--image-sizes"], r"--image-sizes \(\): expected sizes of 8 or more, and 32"),
        (["--image-sizes", "32", "16"], r"--image-sizes \(32, 16\): .* 32, .* as the last"),
        (["--image-sizes", "16", "64"], r"--image-sizes \(16, 64\): .* 32, .* as the last"),
        (["--image-sizes", "7", "32"], r"--image-sizes \(7, 32\): expected sizes of 8 or more"),
        (["--arch", "r18w4_nam_full"], "r18w4_nam_full has parameters .*--image-sizes 32"),
        (["--arch", "r18w4_nam_spatial"], "r18w4_nam_spatial has parameters .*--image-sizes 32"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, more, message):
    with pytest.raises(InputError, match=message) as refused:
        train.main([*ARGUMENTS, "--run-dir", str(tmp_path / "run"), *more])
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arch", ["r18w4_nam", "r18w4_bam"])
def test_the_networks_share_their_variables_and_the_optimizer(arch):
    recipe = recipes.get("fast", image_sizes=(8, 16, 32))
    job = fit.Job(arch, "fast", recipe)
    model = network.compiled_model(job, streams.load("synthetic"), 2, "float32")
    models = network.at_sizes(model, recipe, 2)
    assert sorted(models) == [8, 16, 32]
    assert models[32] is model
    for size, other in models.items():
        assert other.input_shape == (None, size, size, 3)
        assert other.optimizer is model.optimizer
        assert [id(v) for v in other.variables] == [id(v) for v in model.variables]
        assert [id(v) for v in other.trainable_variables] == [
            id(v) for v in model.trainable_variables
        ]
        assert other(np.zeros((2, size, size, 3))).shape == (2, 10)


def batches(size, steps=3, first_step=0):
    stream = streams.training_stream(
        streams.load("synthetic").train,
        64,
        MEAN,
        STD,
        augment.compose(FLIP_AND_CROP),
        size=size,
        seed=4,
        first_step=first_step,
        steps=steps,
    )
    return list(stream.take(steps - first_step).as_numpy_iterator())


def test_a_size_changes_neither_the_order_nor_the_draws():
    """Each batch is the one of full size, resized."""
    for (small, labels), (full, full_labels) in zip(batches(16), batches(None), strict=True):
        assert small.shape == (64, 16, 16, 3)
        assert small.dtype == np.float32
        np.testing.assert_array_equal(labels, full_labels)
        # Normalizing before or after differs by rounding alone, of numbers of about 2.
        np.testing.assert_allclose(small, streams.resize(full, 16), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(batches(16, first_step=2)[0][0], batches(16)[2][0])


def test_the_full_size_leaves_the_stream_as_it_is():
    for (images, labels), (plain, plain_labels) in zip(batches(32), batches(None), strict=True):
        np.testing.assert_array_equal(images, plain)
        np.testing.assert_array_equal(labels, plain_labels)


@pytest.mark.parametrize("size", [8, 20])
def test_images_are_resized_with_antialiasing(size):
    """Against Pillow, which averages over what a pixel covers."""
    pixels = streams.load("synthetic").train.images[:4].astype("float32")
    ours = streams.resize(pixels, size).numpy()
    for image, resized in zip(pixels, ours, strict=True):
        for channel in range(3):
            theirs = Image.fromarray(image[..., channel]).resize((size, size), Image.BILINEAR)
            np.testing.assert_allclose(resized[..., channel], theirs, rtol=0, atol=1e-3)


def test_held_out_images_have_the_size_of_the_epoch():
    split = streams.load("synthetic").test.take(slice(10))
    (images, labels), (rest, _) = streams.evaluation_stream(split, 6, MEAN, STD, 16)
    assert (images.shape, rest.shape) == ((6, 16, 16, 3), (4, 16, 16, 3))
    np.testing.assert_array_equal(labels, split.labels[:6])
    resized = streams.resize(streams.normalize(split.images[:6], MEAN, STD), 16)
    np.testing.assert_allclose(images, resized, rtol=0, atol=1e-5)


def test_the_time_left_counts_pixels(monkeypatch):
    """A step of 16 pixels takes 1 s: epochs of 10, 10 and 40 s are left."""
    said = []
    estimate = callbacks.TimeEstimate(10, [16, 16, 32], said.append)
    for batch in range(10):
        monkeypatch.setattr(time, "perf_counter", lambda seconds=batch: seconds)
        estimate.on_train_batch_end(batch)
    (line,) = said
    assert "next epoch takes about 10 s, the 3 that are left 60 s (measured on 5 steps)" in line


def trained(folder, *more):
    """Trains into a folder; returns its history without timings and its checkpoint's weights."""
    train.main([*ARGUMENTS, "--run-dir", str(folder), *more])
    rows = files.read_history(folder / "history.csv")
    times = ("seconds", "images_per_second")
    model, _, _ = checkpoints.load_newest(folder)
    weights = [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]
    return [{k: v for k, v in row.items() if k not in times} for row in rows], weights


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, *trained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "position"), [(3, (1, 1)), (4, (2, 0))])
def test_stopped_and_resumed_equals_uninterrupted(
    uninterrupted, tmp_path, monkeypatch, step, position
):
    """SIGTERM in the second epoch of the small size, and at its end."""
    _, rows, weights = uninterrupted
    original = callbacks.TimeEstimate.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if int(self.model.optimizer.iterations) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(callbacks.TimeEstimate, "on_train_batch_end", on_train_batch_end)
    with pytest.raises(Terminated, match="epoch {}, step {}: --resume".format(*position)):
        trained(tmp_path / "run")
    model, _, _ = checkpoints.load_newest(tmp_path / "run")
    assert model.input_shape == (None, 32, 32, 3)
    monkeypatch.undo()
    resumed_rows, resumed_weights = trained(tmp_path / "run", "--resume")
    assert resumed_rows == rows
    for ours, theirs in zip(resumed_weights, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_checkpoint_is_of_full_size_and_evaluates(uninterrupted):
    folder, rows, _ = uninterrupted
    model = keras.saving.load_model(folder / "last.keras")
    assert model.input_shape == (None, 32, 32, 3)
    recipe = recipes.get("fast")
    test = streams.load("synthetic").test
    scores = evaluation.evaluate(
        model, streams.evaluation_stream(test, 64, recipe.mean, recipe.std)
    )
    result = files.read_json(folder / "result.json")
    assert scores["top1"] == pytest.approx(result["top1"], abs=1e-6)
    assert scores["top1"] == pytest.approx(rows[-1]["val_top1"], abs=1e-6)
    served = tf.saved_model.load(str(folder / "saved_model" / "1"))
    outputs = served.signatures["serving_default"](image=tf.zeros((2, 32, 32, 3)))
    assert outputs["logits"].shape == (2, 10)
