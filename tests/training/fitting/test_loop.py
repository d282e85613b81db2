"""The streams that a training feeds its network, by the recipe, the data set and the processes."""

import numpy as np
import pytest

from training import jobs, recipes
from training.data import augment, datasets, streams
from training.fitting import loop
from training.fitting.devices import Placement

RECIPE = recipes.get("progressive", batch_size=50, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def dataset():
    return datasets.load("synthetic", validation_split=0.1)


def test_training_batches_follow_the_recipe(dataset):
    """Augmented, normalized, of the epoch's size, from the seed, from the step on."""
    job = jobs.Job("r18w4", "progressive", RECIPE, seed=5, steps_per_epoch=3)

    def expected(augmentation, first_step):
        return streams.training_stream(
            dataset.train,
            50,
            RECIPE.mean,
            RECIPE.std,
            augment=augmentation,
            size=24,
            seed=5,
            first_epoch=4,
            first_step=first_step,
            steps=3,
        )

    found = loop.training_batches(job, dataset, 4, 1).take(3)
    theirs = expected(augment.compose(RECIPE.augment), 1).take(3)
    for (images, labels), (other_images, numbers) in zip(found, theirs, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, np.eye(10)[numbers])
    (first, _), (plain, _) = (next(iter(stream)) for stream in (found, expected(None, 1)))
    assert np.abs(first - plain).mean() > 0.1


def test_held_out_images_are_the_validation_split_unaugmented(dataset):
    job = jobs.Job("r18w4", "progressive", RECIPE)
    batches = list(loop.held_out(job, dataset))
    images = np.concatenate([images for images, _ in batches])
    assert [len(images) for images, _ in batches] == [50] * 4
    expected = streams.normalize(dataset.validation.images, RECIPE.mean, RECIPE.std)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, dataset.validation.labels)


@pytest.mark.parametrize(("processes", "devices", "seen"), [(2, 2, 500), (2, 16, 496), (3, 3, 498)])
def test_processes_share_the_held_out_images(processes, devices, seen):
    """Each has a part of one size; the rest that the devices do not divide is left out."""
    dataset = datasets.load("synthetic")
    job = jobs.Job("r18w4", "fast", recipes.get("fast", batch_size=48))
    found, sizes = [], set()
    for process in range(processes):
        placement = Placement(shard=(process, processes), devices=devices)
        batches = [images.numpy() for images, _ in loop.held_out(job, dataset, None, placement)]
        sizes.add(tuple(len(batch) for batch in batches))
        found.append(np.concatenate(batches))
    assert len(sizes) == 1
    assert all(size % (devices // processes) == 0 for size in sizes.pop())
    together = np.concatenate(found)
    assert len(together) == seen
    expected = streams.normalize(dataset.test.images[:seen], job.recipe.mean, job.recipe.std)
    assert np.isclose(together.sum(dtype=float), np.asarray(expected).sum(dtype=float))
