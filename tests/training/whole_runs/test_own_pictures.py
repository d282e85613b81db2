"""Trainings on a folder of pictures: their settings, their resumption, and what is refused."""

import shutil
import signal

import numpy as np
import pytest

from tests.support import picture_folder
from tests.support.small_run import history
from training import recipes, train
from training.cli import InputError, Terminated
from training.data import datasets
from training.fitting import loop
from training.jobs import Job
from training.runs import files

AUGMENT = ["random_resized_crop:flip=0.5", "RandomContrast:factor=0.2", "MixUp:alpha=0.4"]


@pytest.fixture(scope="module")
def pictures(lean, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield picture_folder.make(tmp_path_factory.mktemp("data") / "pictures", count=12)


def run(pictures, folder, *more):
    """Trains two epochs of three steps; returns the history without its timings."""
    words = ["--dataset", str(pictures), "--image-size", "32", "--recipe", "fast", "--epochs", "2"]
    words += ["--batch-size", "15", "--strategy", "none", "--quiet", "--run-dir", str(folder)]
    train.main([*words, "--augment", *AUGMENT, "--mean", "auto", *more])
    return history(folder)


@pytest.fixture(scope="module")
def uninterrupted(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, run(pictures, folder, "--validation-split", "0.1")


def test_every_setting_is_in_the_config(pictures, uninterrupted):
    folder, _ = uninterrupted
    config = files.read_json(folder / "config.json")
    assert config["class_names"] == sorted(["red", "blue", "Größe", "dark grey", "light grey"])
    assert config["dataset"] == str(pictures)
    assert (config["image_size"], config["crop_fraction"], config["stem"]) == (
        [32, 32],
        0.875,
        "cifar",
    )
    job = Job.from_config(config, folder)
    dataset = datasets.load(**job.data)
    pixels = dataset.train.images[:] / 255
    np.testing.assert_allclose(job.recipe.mean, pixels.mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(job.recipe.std, pixels.std((0, 1, 2)), atol=6e-5)
    listed = (folder / "data.csv").read_text(encoding="utf-8").splitlines()[1:]
    parts = [line.partition(",")[0] for line in listed]
    sizes = [len(part) for part in (dataset.train, dataset.validation, dataset.test)]
    assert [parts.count(part) for part in ("train", "validation", "test")] == sizes
    assert sum(sizes) == 60


def test_a_resumed_training_equals_the_uninterrupted_one(
    pictures, uninterrupted, signal_after, tmp_path
):
    _, rows = uninterrupted
    signal_after(4, signal.SIGTERM)
    with pytest.raises(Terminated, match="epoch 1, step 1"):
        run(pictures, tmp_path / "run", "--validation-split", "0.1")
    assert run(pictures, tmp_path / "run", "--validation-split", "0.1", "--resume") == rows


def test_the_batches_are_the_same_wherever_the_pixels_are(pictures):
    recipe = recipes.get("fast", augment=tuple(AUGMENT), batch_size=15)
    job = Job(recipe=recipe, dataset=str(pictures), image_size=(32, 32), steps_per_epoch=3)
    first, second = (
        next(iter(loop.training_batches(job, datasets.load(**{**job.data, "cache": cache}))))
        for cache in ("memory", "disk")
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    soft = np.asarray(first[1])
    assert np.any((soft > 0) & (soft < 1))
    np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)


def test_a_changed_folder_is_not_resumed(uninterrupted, pictures, tmp_path):
    folder, _ = uninterrupted
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    (copy / "red" / "001.png").unlink()
    picture_folder.draw(np.random.default_rng(1), 0, 40, 40).save(copy / "red" / "new.png")
    picture_folder.draw(np.random.default_rng(2), 0, 40, 40).save(copy / "red" / "003.bmp")
    run_folder = tmp_path / "run"
    shutil.copytree(folder, run_folder)
    with pytest.raises(InputError) as refused:
        run(copy, run_folder, "--validation-split", "0.1", "--resume")
    for token in ("red/001.png", "red/new.png", "red/003.bmp"):
        assert token in str(refused.value)
