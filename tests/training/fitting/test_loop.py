"""The streams that a training feeds its network, by the recipe and the data set."""

import numpy as np
import pytest

from training import recipes
from training.data import augment, streams
from training.fitting import loop
from training.fitting.job import Job

RECIPE = recipes.get("progressive", batch_size=50, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def dataset():
    return streams.load("synthetic", validation_split=0.1)


def test_training_batches_are_the_recipes(dataset):
    """Augmented, normalized, of the epoch's size, from the seed, from the step on."""
    job = Job("r18w4", "progressive", RECIPE, seed=5)
    expected = streams.training_stream(
        dataset.train,
        50,
        RECIPE.mean,
        RECIPE.std,
        augment=augment.compose(RECIPE.augment),
        size=24,
        seed=5,
        first_epoch=4,
        first_step=1,
        steps=3,
    )
    found = loop.training_batches(job, dataset, 3, 4, 1)
    for (images, labels), (theirs, numbers) in zip(found.take(3), expected.take(3), strict=True):
        np.testing.assert_array_equal(images, theirs)
        np.testing.assert_array_equal(labels, np.eye(10)[numbers])
    plain = streams.training_stream(
        dataset.train, 50, RECIPE.mean, RECIPE.std, size=24, seed=5, first_epoch=4, steps=3
    )
    (first, _), (without, _) = (
        next(iter(s)) for s in (loop.training_batches(job, dataset, 3, 4, 0), plain)
    )
    assert np.abs(first - without).mean() > 0.1


def test_held_out_images_are_those_of_the_validation_split_as_they_are(dataset):
    job = Job("r18w4", "progressive", RECIPE)
    batches = list(loop.held_out(job, dataset))
    images = np.concatenate([images for images, _ in batches])
    assert [len(images) for images, _ in batches] == [50] * 4
    expected = streams.normalize(dataset.validation.images, RECIPE.mean, RECIPE.std)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in batches]), dataset.validation.labels
    )
