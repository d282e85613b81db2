"""Splits, normalization and streams, on images that carry their own index."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.cli import InputError
from training.data import augment, datasets, pictures, streams

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.1942, 0.1918, 0.1958)
UNIT = (0, 0, 0), (1, 1, 1)


def numbered(count):
    """Returns a split whose image i has the pixels i and the label 3 * i."""
    images = (
        np.zeros((count, 4, 4, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    return datasets.Split(images, 3 * np.arange(count))


def numbers(batch):
    """Returns the indices of the images of a batch of a stream that was normalized by `UNIT`."""
    images, labels = batch
    found = np.rint(images.numpy()[:, 0, 0, 0] * 255).astype(int)
    np.testing.assert_array_equal(3 * found, labels)  # an image keeps its label
    return found.tolist()


def take(stream, count):
    return list(stream.take(count))


def assert_equal_batches(first, second):
    for one, two in zip(first, second, strict=True):
        for part, other in zip(one, two, strict=True):
            np.testing.assert_array_equal(part, other)


def test_an_unknown_name_is_an_input_error_with_the_nearest():
    with pytest.raises(InputError, match=r"cifar1000: expected cifar100, cifar10, synthetic"):
        datasets.load("cifar1000")
    with pytest.raises(InputError, match="Did you mean 'synthetic'"):
        datasets.load("sintetic")


def test_without_a_validation_split_the_test_set_is_held_out():
    dataset = datasets.load("synthetic")
    assert dataset.name == "synthetic"
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.validation is None
    assert dataset.held_out is dataset.test
    assert dataset.held_out_name == "500 test images"


def test_validation_is_the_same_share_of_each_class_and_disjoint():
    whole = datasets.load("synthetic")
    dataset = datasets.load("synthetic", validation_split=0.1, seed=1)
    assert np.bincount(dataset.validation.labels).tolist() == [20] * 10
    assert np.bincount(dataset.train.labels).tolist() == [180] * 10
    parts = [
        {(image.tobytes(), label) for image, label in zip(part.images, part.labels, strict=True)}
        for part in (whole.train, dataset.train, dataset.validation)
    ]
    assert parts[0] == parts[1] | parts[2]
    assert not parts[1] & parts[2]
    np.testing.assert_array_equal(dataset.test.images, whole.test.images)
    assert dataset.held_out is dataset.validation
    again, other = (datasets.load("synthetic", None, 0.1, seed).validation for seed in (1, 2))
    np.testing.assert_array_equal(dataset.validation.images, again.images)
    assert (dataset.validation.images != other.images).any()


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), 0.999999, 1e-6])
def test_a_wrong_share_is_an_input_error(share):
    with pytest.raises(InputError, match=f"--validation-split {share}"):
        datasets.load("synthetic", validation_split=share)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalize_divides_by_255_and_by_the_deviation(dtype):
    images = np.array([[[[0, 51, 255], [255, 0, 102]]]], dtype)
    expected = (images.astype(np.float64) / 255 - MEAN) / STD
    normalized = streams.normalize(images, MEAN, STD)
    assert normalized.dtype == tf.float32
    np.testing.assert_allclose(normalized, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_size_without_a_batch_is_an_input_error(batch_size):
    assert streams.steps_per_epoch(numbered(10), 3) == 3
    with pytest.raises(InputError, match=f"--batch-size {batch_size}: expected 1 to 10"):
        streams.steps_per_epoch(numbered(10), batch_size)
    with pytest.raises(InputError, match=f"--batch-size {batch_size}"):
        streams.training_stream(numbered(10), batch_size, *UNIT)


def test_an_epoch_has_each_image_once_in_its_own_order():
    batches = take(streams.training_stream(numbered(12), 4, *UNIT), 9)
    epochs = [
        [number for batch in batches[start : start + 3] for number in numbers(batch)]
        for start in (0, 3, 6)
    ]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({*map(tuple, epochs), tuple(range(12))}) == 4


def test_an_epoch_drops_the_remainder_and_another_one_drops_others():
    batches = take(streams.training_stream(numbered(11), 4, *UNIT), 40)
    epochs = [{*numbers(batches[i]), *numbers(batches[i + 1])} for i in range(0, 40, 2)]
    assert all(len(epoch) == 8 for epoch in epochs)
    # Each of 11 images is left out of 20 epochs with probability 4e-11.
    assert set().union(*epochs) == set(range(11))


def test_fewer_steps_make_a_shorter_epoch():
    batches = take(streams.training_stream(numbered(12), 4, *UNIT, steps=2), 4)
    assert numbers(batches[0]) + numbers(batches[1]) != numbers(batches[2]) + numbers(batches[3])
    resumed = take(streams.training_stream(numbered(12), 4, *UNIT, steps=2, first_epoch=1), 2)
    assert_equal_batches(batches[2:], resumed)


def test_a_resumed_stream_is_the_uninterrupted_one():
    dataset = datasets.load("synthetic")
    every = augment.compose(list(augment.AUGMENTATIONS))

    def stream(first_epoch):
        return streams.training_stream(
            dataset.train, 1000, MEAN, STD, every, seed=5, first_epoch=first_epoch
        )

    assert_equal_batches(take(stream(0), 6)[4:], take(stream(2), 2))


def test_the_seed_alone_changes_order_and_draws():
    """Not the global random state: two archs draw different numbers of weights."""
    states = itertools.count()

    def stream(seed, names=()):
        keras.utils.set_random_seed(next(states))
        return streams.training_stream(numbered(12), 12, *UNIT, augment.compose(names), seed=seed)

    orders = [numbers(next(iter(stream(seed)))) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    drawn = [
        next(iter(stream(seed, ["random_brightness:probability=1"])))[0].numpy()
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    factors = [np.sort(images[:, 0, 0, 0]) for images in (drawn[0], drawn[2])]
    assert (factors[0] != factors[1]).any()


def test_each_batch_has_its_own_seed():
    def from_the_seed(images, seed, rows):
        return tf.zeros_like(images) + tf.cast(seed[0] % 100_003, tf.float32)

    stream = streams.training_stream(numbered(12), 4, *UNIT, from_the_seed)
    seeds = {float(images[0, 0, 0, 0]) for images, _ in stream.take(12)}
    assert len(seeds) == 12


def test_augmentation_sees_0_to_255_and_normalization_comes_after():
    split = datasets.Split(np.full((2, 4, 4, 3), 200, np.uint8), np.zeros(2, np.int64))
    stream = streams.training_stream(split, 2, MEAN, STD, lambda images, seed, rows: images / 2)
    assert stream.element_spec == (
        tf.TensorSpec([2, 4, 4, 3], tf.float32),
        tf.TensorSpec([2], tf.int64),
    )
    images, _ = next(iter(stream))
    expected = np.broadcast_to((100 / 255 - np.array(MEAN)) / STD, (2, 4, 4, 3))
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_streams_normalize_bit_exactly_as_the_savedmodel_does():
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
    split = datasets.Split(images, np.arange(12))
    expected = streams.normalize(images, MEAN, STD).numpy()
    for stream in (
        streams.training_stream(split, 12, MEAN, STD),
        streams.training_stream(split, 12, MEAN, STD, lambda images, seed, rows: images),
        streams.evaluation_stream(split, 12, MEAN, STD),
    ):
        normalized, labels = next(iter(stream))
        np.testing.assert_array_equal(normalized, expected[labels])


def test_evaluation_has_each_image_once_in_order_and_a_smaller_last_batch():
    stream = streams.evaluation_stream(numbered(11), 4, *UNIT)
    for _ in range(2):  # a second pass is the same
        assert [numbers(batch) for batch in stream] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


NAMES = [*augment.AUGMENTATIONS]


@pytest.mark.parametrize("names", [[name] for name in NAMES] + [NAMES], ids=len)
def test_rows_of_a_batch_are_augmented_as_in_the_batch(names):
    images, seed = tf.constant(datasets.load("synthetic").train.images[:12], tf.float32), [3, 4]
    function = augment.compose(names)
    whole = function(images, seed)
    for first in (0, 8):
        part = function(images[first : first + 4], seed, (first, 12))
        np.testing.assert_array_equal(part, whole[first : first + 4])
    if names == NAMES:
        assert not np.array_equal(whole[:4], function(images[:4], seed, (4, 12)))


def test_the_shards_of_the_stream_are_the_stream():
    split = datasets.load("synthetic").train

    def batches(shard):
        stream = streams.training_stream(
            split, 24, MEAN, STD, augment.compose(NAMES), seed=1, steps=2, shard=shard
        )
        return [(images.numpy(), labels.numpy()) for images, labels in stream.take(3)]

    parts = [batches((process, 3)) for process in range(3)]
    for step, whole in enumerate(batches((0, 1))):
        for number, expected in enumerate(whole):
            joined = np.concatenate([part[step][number] for part in parts])
            np.testing.assert_array_equal(joined, expected)


@pytest.mark.parametrize(("count", "rows", "columns"), [(12, 3, 3), (8, 2, 3), (2, 1, 2)])
def test_a_preview_shows_the_images_row_by_row(count, rows, columns):
    """Whole rows: a training set may be small."""
    picture = streams.preview(numbered(count), lambda images, *_: images, seed=0, columns=3)
    assert picture.shape == (1, 4 * rows, 4 * columns, 3)
    shown = np.sort(picture[0, ::4, ::4, 0], axis=None) * 255
    np.testing.assert_allclose(shown, np.arange(rows * columns), atol=1e-4)


def test_a_preview_shows_every_augmentation():
    split = datasets.load("synthetic").train
    pictures = [
        streams.preview(split, augment.compose(names), seed=0)
        for names in ((), ("random_resized_crop",), ("random_resized_crop", "MixUp"))
    ]
    plain, cropped, mixed = (np.asarray(picture) for picture in pictures)
    assert plain.shape == cropped.shape == mixed.shape
    assert np.abs(plain - cropped).mean() > 0.01
    assert np.abs(mixed - cropped).mean() > 0.01
    assert min(picture.min() for picture in (cropped, mixed)) >= 0
    assert max(picture.max() for picture in (cropped, mixed)) <= 1


@pytest.mark.data
def test_cifar100_itself():
    dataset = datasets.load("cifar100", validation_split=0.1)
    assert np.bincount(dataset.train.labels).tolist() == [450] * 100
    assert np.bincount(dataset.validation.labels).tolist() == [50] * 100
    assert np.bincount(dataset.test.labels).tolist() == [100] * 100
    assert dataset.class_names[0] == "apple"
    assert dataset.class_names[99] == "worm"
    # The recipe's mean, R before B, is the mean of the official training images.
    mean = dataset.train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, MEAN, atol=0.003)


def test_arrays_are_resized_and_cropped_as_pictures_are():
    plain = datasets.load("synthetic").test
    large = datasets.load("synthetic", image_size=(48,))
    assert large.image_shape == (48, 48, 3)
    cropped = datasets.load("synthetic", crop_fraction=0.8)
    assert (cropped.image_shape, cropped.resize.crop_fraction) == ((32, 32, 3), 0.8)
    expected = pictures.Resize(32, 32, 0.8).all(plain.images[:3])
    np.testing.assert_array_equal(cropped.test.images[:3], expected)
    assert np.any(expected != plain.images[:3])
