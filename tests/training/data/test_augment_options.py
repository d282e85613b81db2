"""Augmentations by name: their options, wrong ones, and that an option has a draw of its own."""

import numpy as np
import pytest

from training.cli import InputError
from training.data import augment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random_flop", "Did you mean 'random_flip'"),
        ("", "Unknown augmentation ''"),
        ("random_crop:pading=2", "Unknown option of random_crop 'pading'.*Did you mean 'padding'"),
        ("random_flip:probability=1", "there are none"),
        ("random_crop:padding=two", "padding is 'two'; expected a value like 4"),
        ("random_brightness:amount", "amount is ''"),
        ("random_crop:mode=wrap", "random_crop:mode=wrap cannot be applied"),
        ("random_crop:mode=reflect,padding=40", "cannot be applied"),
    ],
)
def test_a_wrong_name_or_option_is_an_input_error(text, message):
    with pytest.raises(InputError, match=message):
        augment.compose(["random_flip", text])


def test_options_reach_the_function():
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    crops = augment.parse("random_crop:padding=0,mode=REFLECT")(images, [28, 29])
    np.testing.assert_array_equal(crops, images)


def test_brightness_draws_whether_apart_from_how_much():
    factors = augment.random_brightness(np.full((4000, 1, 1, 3), 100.0, np.float32), [23, 24])
    factors = factors.numpy()[:, 0, 0, 0] / 100
    used = factors[factors != 1]
    # The standard deviation of the mean of 2000 draws in 1 ± 0.1 is 0.0013; here four of them.
    assert abs(used.mean() - 1) < 0.0052
