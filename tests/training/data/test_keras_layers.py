"""Keras' preprocessing layers draw from the seed that they are given, and from nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from training.cli import InputError
from training.data import keras_layers

IMAGES = tf.random.stateless_uniform([8, 16, 16, 3], [1, 2], 0, 255)
LABELS = tf.one_hot(tf.range(8) % 3, 3)


def batches(name, options, seed):
    augment = keras_layers.augmentation(name, options)
    steps = tf.data.Dataset.range(2)
    found = steps.map(lambda step: augment(IMAGES, LABELS, tf.stack([seed, step])))
    return [(images.numpy(), labels.numpy()) for images, labels in found]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("RandAugment", {"factor": 0.5}, marks=pytest.mark.slow),
        ("MixUp", {"alpha": 0.5}),
        ("RandomErasing", {}),
    ],
)
def test_the_same_seed_gives_the_same_batches(name, options):
    first, again, other = (batches(name, options, seed) for seed in (1, 1, 2))
    for (images, labels), (same, same_labels) in zip(first, again, strict=True):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(labels, same_labels)
    assert np.any(first[0][0] != first[1][0])
    assert np.any(first[0][0] != other[0][0])
    soft = np.any((first[0][1] > 0) & (first[0][1] < 1))
    assert soft == (name == "MixUp")
    assert first[0][0].min() >= 0
    assert first[0][0].max() <= 255


@pytest.mark.parametrize(
    ("name", "options", "token"),
    [
        ("RandomFlipp", {}, "RandomFlip"),
        ("AugMix", {}, "AugMix"),
        ("MixUp", {"beta": 1}, "alpha"),
        ("RandomContrast", {"factor": "x"}, "RandomContrast"),
    ],
)
def test_refused(name, options, token):
    with pytest.raises(InputError, match=token):
        keras_layers.augmentation(name, options)
