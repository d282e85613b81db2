"""Each augmentation against a reference; its draws are read off images of coordinates.

The draws are seeded, so a test that passes once always passes. A correct sampler exceeds a bound
with the probability stated.
"""

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from training.cli import InputError
from training.data import augment

KOLMOGOROV_999 = 1.95  # sqrt(n) times the largest gap of an empirical distribution, p = 0.001


def coordinates(batch, size):
    """Returns images whose pixels are (row + 1, column + 1, 0): never (0, 0, 0), the filling."""
    rows, columns = np.mgrid[1 : size + 1, 1 : size + 1]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.float32)
    return np.repeat(image[None], batch, axis=0)


def crop_offsets(images):
    """Returns the offset [B, 2] of each crop of `coordinates`, by a pixel that is always inside."""
    middle = images.shape[1] // 2
    return np.asarray(images)[:, middle, middle, :2].astype(int) - (middle + 1) + 4


def rotation_angles(images):
    """Returns the angle in degrees, counterclockwise, of each rotation of `coordinates`.

    The least-squares rotation from each pixel's place to the place that it came from. An angle
    that moves no pixel by half its size is read as 0: up to 0.45 degrees in an image of 128.
    """
    images = np.asarray(images, np.float64)
    middle = (images.shape[1] + 1) / 2
    places = coordinates(1, images.shape[1])[..., :2] - middle
    inside = (images[..., :1] > 0) & (images[..., 1:2] > 0)
    row, column = np.moveaxis(np.where(inside, images[..., :2] - middle, 0), -1, 0)
    to_row, to_column = np.moveaxis(places, -1, 0)
    sin = (row * to_column - column * to_row).sum((1, 2))
    cos = (row * to_row + column * to_column).sum((1, 2))
    return np.degrees(np.arctan2(sin, cos))


def largest_gap(draws, low, high):
    """Returns the Kolmogorov-Smirnov distance of draws from the uniform distribution."""
    expected = (np.sort(draws) - low) / (high - low)
    steps = np.arange(len(draws) + 1) / len(draws)
    return max(abs(expected - steps[1:]).max(), abs(expected - steps[:-1]).max())


def photographs(batch=64):
    """Returns random images between 60 and 190, bluer than grey, which no factor clips."""
    noise = np.random.default_rng(1).integers(60, 111, (batch, 8, 8, 3))
    return (noise + np.array([0, 0, 80])).astype(np.float32)


def test_crop_reaches_all_81_offsets_evenly():
    crops = augment.random_crop(coordinates(8100, 12), [1, 2])
    rows, columns = crop_offsets(crops).T
    counts = np.bincount(rows * 9 + columns, minlength=81)
    assert len(counts) == 81
    # Chi-square with 80 degrees of freedom exceeds 124.8 with probability 0.001.
    assert ((counts - 100) ** 2 / 100).sum() < 124.8


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_has_exactly_the_pixels_of_the_padded_image(mode):
    images = coordinates(32, 12)
    crops = augment.random_crop(images, [3, 4], mode=mode)
    # The middle pixel is inside whatever the mode, and says the offset.
    for image, crop, (row, column) in zip(images, crops, crop_offsets(crops), strict=True):
        padded = np.pad(image, [(4, 4), (4, 4), (0, 0)], mode)
        np.testing.assert_array_equal(crop, padded[row : row + 12, column : column + 12])


def test_pixels_stay_in_their_image_which_need_not_be_square():
    images = coordinates(64, 20)[:, :12]
    images[..., 2] = np.arange(1, 65)[:, None, None]  # the image's number
    crops = augment.random_crop(images, [36, 37]).numpy()
    rows, columns = crops[:, 6, 10, 0].astype(int) - 7 + 4, crops[:, 6, 10, 1].astype(int) - 11 + 4
    for image, crop, row, column in zip(images, crops, rows, columns, strict=True):
        padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
        np.testing.assert_array_equal(crop, padded[row : row + 12, column : column + 20])
    flipped = augment.random_flip(images, [38, 39]).numpy()
    which = flipped[:, 0, 0, 1] == 20
    assert 0 < which.sum() < 64
    np.testing.assert_array_equal(flipped[which], images[which][:, :, ::-1])
    np.testing.assert_array_equal(flipped[~which], images[~which])
    rotated = augment.random_rotation(images, [40, 41]).numpy()
    framed = np.pad(images, [(0, 0), (4, 4), (0, 0), (0, 0)])  # a square with the same centre
    framed = augment.random_rotation(framed, [40, 41]).numpy()[:, 4:16]
    # What lies within float32's rounding of the middle of two pixels may go to either.
    assert (rotated != framed).any(-1).mean() < 1e-3
    lighter = images + 50  # no factor clips it
    contrasted = augment.parse("random_contrast:probability=1")(lighter, [44, 45]).numpy()
    grey = [(both @ [0.299, 0.587, 0.114]).mean((1, 2)) for both in (lighter, contrasted)]
    np.testing.assert_allclose(*grey, atol=1e-3)


def test_rotation_is_tensorflows_projective_transform():
    images, seed, limit = tf.constant(coordinates(256, 32)), [42, 43], math.radians(15)
    angles = tf.random.stateless_uniform([256], seed, -limit, limit)
    cos, sin, middle, zero = tf.cos(angles), tf.sin(angles), 15.5, tf.zeros([256])
    x, y = middle * (1 - cos + sin), middle * (1 - cos - sin)
    expected = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([cos, -sin, x, sin, cos, y, zero, zero], axis=1),
        output_shape=[32, 32],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    rotated = augment.random_rotation(images, seed)
    # As above; 4e-6 of the pixels were seen to differ.
    assert (rotated != expected).numpy().any(-1).mean() < 1e-4


def test_flip_mirrors_half_of_the_images():
    images = coordinates(4000, 5)
    flipped = augment.random_flip(images, [5, 6]).numpy()
    which = flipped[:, 0, 0, 1] == 5
    np.testing.assert_array_equal(flipped[which], images[which][:, :, ::-1])
    np.testing.assert_array_equal(flipped[~which], images[~which])
    # Five standard deviations of a binomial share of 4000: p = 6e-7.
    assert abs(which.mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)


@pytest.mark.parametrize("name", ["random_brightness", "random_contrast"])
def test_factor_is_uniform_and_applied_to_half_of_the_images(name):
    images = np.zeros((4000, 1, 2, 3), np.float32) + np.array([[50.0], [150.0]], np.float32)
    changed = augment.AUGMENTATIONS[name](images, [7, 8]).numpy()
    # The distance of the two pixels is multiplied by the factor, in both augmentations.
    factors = (changed[:, 0, 1, 0] - changed[:, 0, 0, 0]) / 100
    used = factors[factors != 1]
    assert abs(len(used) / 4000 - 0.5) < 5 * 0.5 / math.sqrt(4000)
    assert largest_gap(used, 0.9, 1.1) < KOLMOGOROV_999 / math.sqrt(len(used))
    # Whether and how much are separate draws. The standard deviation of the mean of 2000 draws in
    # 1 ± 0.1 is 0.0013; here four of them.
    assert abs(used.mean() - 1) < 0.0052


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("random_brightness", ImageEnhance.Brightness), ("random_contrast", ImageEnhance.Contrast)],
)
def test_brightness_and_contrast_are_those_that_paddle_takes_from_pillow(name, enhancer):
    images = photographs()
    changed = augment.parse(f"{name}:probability=1,amount=0.3")(images, [9, 10]).numpy()
    factors = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert np.ptp(factors) > 0.5
    for image, ours, factor in zip(images, changed, factors, strict=True):
        pillow = enhancer(Image.fromarray(image.astype(np.uint8))).enhance(factor)
        # Pillow truncates its result (below 1) and rounds the grey image and its mean (0.3 * 1).
        np.testing.assert_allclose(ours, np.asarray(pillow), atol=1.3)


def test_factor_is_never_negative():
    # Paddle draws from max(0, 1 - amount): at an amount of 2 from 0 to 3.
    images = np.full((4000, 1, 1, 3), 50.0, np.float32)
    changed = augment.parse("random_brightness:probability=1,amount=2")(images, [30, 31])
    factors = changed.numpy()[:, 0, 0, 0] / 50
    assert largest_gap(factors, 0, 3) < KOLMOGOROV_999 / math.sqrt(4000)


@pytest.mark.parametrize("name", ["random_brightness", "random_contrast"])
def test_pixels_stay_in_0_to_255(name):
    images = np.tile(np.array([0.0, 255.0], np.float32)[:, None], (256, 4, 1, 3))
    changed = augment.parse(f"{name}:probability=1,amount=0.9")(images, [13, 14])
    assert changed.numpy().min() == 0
    assert changed.numpy().max() == 255


def test_rotation_is_uniform_in_15_degrees():
    angles = rotation_angles(augment.random_rotation(coordinates(300, 64), [15, 16]))
    # None of 300 draws within a degree of an end of 30 degrees: p = 4e-5.
    assert -15.1 < angles.min() < -14
    assert 14 < angles.max() < 15.1
    assert largest_gap(angles, -15, 15) < KOLMOGOROV_999 / math.sqrt(300)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("random_crop", 35),  # 64 draws of 81 offsets: 44 ± 3 different ones
        ("random_flip", 2),
        ("random_brightness:probability=1", 64),
        ("random_contrast:probability=1", 64),
        ("random_rotation:degrees=90", 60),  # near angles give the same nearest pixels
    ],
)
def test_images_of_a_batch_do_not_share_a_draw(text, least):
    images = np.repeat(photographs(1), 64, axis=0)
    images = tf.image.resize(images, (32, 32))
    changed = augment.parse(text)(images, [19, 20]).numpy()
    assert len({image.tobytes() for image in changed}) >= least


def test_a_seed_gives_the_same_result_and_another_another():
    names = list(augment.AUGMENTATIONS)
    images = np.tile(photographs(8), (1, 4, 4, 1))
    first, again, other = (
        augment.compose(names)(images, [25, last]).numpy() for last in (26, 26, 27)
    )
    np.testing.assert_array_equal(first, again)
    assert all((one != two).any() for one, two in zip(first, other, strict=True))
    twice = augment.compose(["random_flip", "random_flip"])(coordinates(1000, 4), [21, 22])
    mirrored = (twice.numpy()[:, 0, 0, 1] == 4).mean()
    assert abs(mirrored - 0.5) < 5 * 0.5 / math.sqrt(1000)  # shared draws: none


def test_options_reach_the_function():
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    crops = augment.parse("random_crop:padding=0,mode=REFLECT")(images, [28, 29])
    np.testing.assert_array_equal(crops, images)
    rotated = augment.parse("random_rotation:degrees=7.5")(coordinates(100, 128), [32, 33])
    # None of 100 draws above 7 degrees on either side: p = 0.001.
    assert 7 < np.abs(rotation_angles(rotated)).max() < 7.6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random_flop", "'random_flip'"),
        ("", "augmentation ''"),
        ("random_crop:pading=2", "random_crop 'pading'.*'padding'"),
        ("random_flip:probability=1", "there are none"),
        ("random_crop:padding=two", "'two'; expected a value like 4"),
        ("random_brightness:amount", "amount is ''"),
        ("random_crop:mode=wrap", "random_crop:mode=wrap cannot be applied"),
        ("random_crop:mode=reflect,padding=40", "cannot be applied"),
    ],
)
def test_a_wrong_name_or_option_is_an_input_error(text, message):
    with pytest.raises(InputError, match=message):
        augment.check(["random_flip", text], 32, 32)
