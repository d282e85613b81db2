"""A batch that several processes share: together they see what one would see."""

import numpy as np
import pytest
import tensorflow as tf

from training import recipes
from training.data import augment, streams
from training.fitting import loop
from training.fitting.devices import Placement
from training.fitting.job import Job

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
NAMES = ["random_crop", "random_flip", "random_brightness", "random_contrast", "random_rotation"]


@pytest.fixture(scope="module")
def dataset():
    return streams.load("synthetic")


@pytest.mark.parametrize("name", [[name] for name in NAMES] + [NAMES])
def test_rows_of_a_batch_are_augmented_as_in_the_batch(dataset, name):
    images, seed = tf.constant(dataset.train.images[:12], tf.float32), [3, 4]
    function = augment.compose(name)
    whole = function(images, seed)
    for first in (0, 4, 8):
        part = function(images[first : first + 4], seed, (first, 12))
        np.testing.assert_array_equal(part, whole[first : first + 4])
    if name == NAMES:
        assert not np.array_equal(whole[:4], function(images[:4], seed, (4, 12)))


@pytest.mark.parametrize("processes", [2, 3])
def test_the_shards_of_the_stream_are_the_stream(dataset, processes):
    def batches(shard):
        stream = streams.training_stream(
            dataset.train, 24, MEAN, STD, augment.compose(NAMES), seed=1, steps=2, shard=shard
        )
        return [(images.numpy(), labels.numpy()) for images, labels in stream.take(3)]

    parts = [batches((process, processes)) for process in range(processes)]
    for step, (images, labels) in enumerate(batches((0, 1))):
        np.testing.assert_array_equal(images, np.concatenate([p[step][0] for p in parts]))
        np.testing.assert_array_equal(labels, np.concatenate([p[step][1] for p in parts]))


@pytest.mark.parametrize(("processes", "devices", "seen"), [(2, 2, 500), (2, 16, 496), (3, 3, 498)])
def test_the_held_out_images_are_shared_once_each(dataset, processes, devices, seen):
    """A part of each, of equal sizes; what the devices do not divide is left out."""
    job = Job("r18w4", "fast", recipes.get("fast", batch_size=48))
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
