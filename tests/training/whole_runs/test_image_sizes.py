"""Progressive resizing: each size's epochs, one network of several sizes, its stream, its runs."""

import signal

import keras
import numpy as np
import pytest
from PIL import Image

from tests.support.small_run import run
from training import jobs, recipes
from training.cli import Terminated
from training.data import augment, datasets, streams
from training.fitting import network
from training.runs import scores

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.1942, 0.1918, 0.1958)
FLIP_AND_CROP = ["random_crop:mode=reflect", "random_flip"]
# Epochs of 16, 16 and 32 pixels, two steps each.
SIZES = ["--progressive-sizes", "16", "32", "--steps-per-epoch", "2", "--optimizer", "muon"]


@pytest.mark.parametrize("sizes", [(32,), (16, 32), (24, 16, 32), (8, 12, 20, 32)])
def test_each_size_has_its_share_and_the_full_one_is_last(sizes):
    for epochs in range(1, 40):
        recipe = recipes.get("fast", epochs=epochs, progressive_sizes=sizes)
        of_epochs = [recipe.image_size(epoch) for epoch in range(epochs)]
        counts = [of_epochs.count(size) for size in sizes]
        assert of_epochs == list(np.repeat(sizes, counts))  # in turn
        assert max(counts) - min(counts) <= 1
        assert counts[-1] == max(counts)
        assert sum(counts) == epochs


def test_the_networks_share_their_variables_and_the_optimizer():
    recipe = recipes.get("fast", progressive_sizes=(8, 16, 32))
    job = jobs.Job(
        "r18w4_bam",
        "fast",
        recipe,
        "cifar",
        image_size=(32, 32),
        steps_per_epoch=2,
        precision="float32",
    )
    model = network.compiled_model(job, 10)
    models = network.at_sizes(model, job)
    assert models.pop(None) is models[32] is model
    assert sorted(models) == [8, 16, 32]
    for size, other in models.items():
        assert other.input_shape == (None, size, size, 3)
        assert other.optimizer is model.optimizer
        for kind in ("variables", "trainable_variables"):
            ours, theirs = ([id(v) for v in getattr(m, kind)] for m in (other, model))
            assert ours == theirs
        assert other(np.zeros((2, size, size, 3))).shape == (2, 10)


def batches(size, steps=3, first_step=0):
    stream = streams.training_stream(
        datasets.load("synthetic").train,
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
    """Each batch is the one of full size, resized. The full size changes nothing."""
    plain, small = batches(None), batches(16)
    for (images, labels), (full, full_labels) in zip(small, plain, strict=True):
        assert images.shape == (64, 16, 16, 3)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(labels, full_labels)
        # Normalizing before or after differs by rounding alone, of numbers of about 2.
        np.testing.assert_allclose(images, streams.resize(full, 16), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(batches(16, first_step=2)[0][0], small[2][0])
    np.testing.assert_array_equal(batches(32)[0][0], plain[0][0])


@pytest.mark.parametrize("size", [8, 20])
def test_images_are_resized_with_antialiasing(size):
    """Against Pillow, which averages over what a pixel covers."""
    pixels = datasets.load("synthetic").train.images[:4].astype("float32")
    ours = streams.resize(pixels, size).numpy()
    for image, resized in zip(pixels, ours, strict=True):
        for channel in range(3):
            theirs = Image.fromarray(image[..., channel]).resize((size, size), Image.BILINEAR)
            np.testing.assert_allclose(resized[..., channel], theirs, rtol=0, atol=1e-3)


def test_held_out_images_have_the_size_of_the_epoch():
    split = datasets.load("synthetic").test.take(slice(10))
    (images, labels), (rest, _) = streams.evaluation_stream(split, 6, MEAN, STD, 16)
    assert (images.shape, rest.shape) == ((6, 16, 16, 3), (4, 16, 16, 3))
    np.testing.assert_array_equal(labels, split.labels[:6])
    resized = streams.resize(streams.normalize(split.images[:6], MEAN, STD), 16)
    np.testing.assert_allclose(images, resized, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("lean")
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, signal_after, uninterrupted):
    """SIGTERM in the second epoch of the small size."""
    whole, rows = uninterrupted(*SIZES)
    signal_after(3, signal.SIGTERM)
    with pytest.raises(Terminated, match="epoch 1, step 1"):
        run(tmp_path / "run", *SIZES)
    assert run(tmp_path / "run", *SIZES, "--resume") == rows
    ours, theirs = (
        keras.saving.load_model(folder / "last.keras").get_weights()
        for folder in (tmp_path / "run", whole)
    )
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_checkpoint_is_of_full_size(uninterrupted):
    folder, rows = uninterrupted(*SIZES)
    model = keras.saving.load_model(folder / "best.keras")
    assert model.input_shape == (None, 32, 32, 3)
    recipe = recipes.get("fast")
    stream = streams.evaluation_stream(datasets.load("synthetic").test, 64, recipe.mean, recipe.std)
    top1 = scores.evaluate(model, stream)["top1"]
    assert top1 == pytest.approx(rows[-1]["val_top1"], abs=1e-6)
