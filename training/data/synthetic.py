"""An embedded data set that a small network learns in a few epochs: coloured stripes.

A class is a colour and a direction of the stripes. Neither shifts, mirroring nor small rotations
change it. A wrong input pipeline loses accuracy: swapped channels turn red into blue and yellow
into cyan, swapped axes turn the stripes, and another normalization confuses the two greys.
"""

import functools

import numpy as np

COLOURS = {
    "red": (200, 60, 50),
    "blue": (50, 60, 200),
    "yellow": (190, 180, 60),
    "dark grey": (80, 80, 80),
    "light grey": (190, 190, 190),
}
DIRECTIONS = {"horizontal": 90, "vertical": 0}  # degrees between the x axis and the wave
TRAIN, TEST = 200, 50  # images a class
SIZE = 32  # height and width, pixels


@functools.cache
def load(name, data_dir=None):
    """Returns what every loader returns, see `sources.load`; reads no file."""
    class_names = [f"{colour} {direction}" for colour in COLOURS for direction in DIRECTIONS]
    rng = np.random.default_rng(2111)
    parts = [_draw(rng, count, len(class_names)) for count in (TRAIN, TEST)]
    for array in (array for part in parts for array in part):
        array.flags.writeable = False  # the next call returns the same arrays
    return *parts, class_names, "the embedded synthetic set (10 classes of stripes)"


def _draw(rng, count, classes):
    """Returns `count` images of each class, in a random order, and their labels."""
    labels = rng.permutation(np.repeat(np.arange(classes), count))
    colours = np.array(list(COLOURS.values()))[labels // len(DIRECTIONS)]
    degrees = np.array(list(DIRECTIONS.values()))[labels % len(DIRECTIONS)]

    def draw(low, high):
        return rng.uniform(low, high, (len(labels), 1, 1))

    angle = np.radians(degrees[:, None, None] + draw(-10, 10))
    y, x = np.mgrid[:SIZE, :SIZE]
    along = np.cos(angle) * x + np.sin(angle) * y
    wave = np.sin(2 * np.pi * (along / draw(5, 9) + draw(0, 1)))
    # The same contrast in every colour, so that dark stripes are as easy to see.
    images = colours[:, None, None] * draw(0.85, 1.1)[..., None] + 40 * wave[..., None]
    images += rng.normal(0, 20, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8), labels
