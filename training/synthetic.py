"""An embedded data set that a small network learns in an epoch or two: striped discs and squares.

A class is a shape and its hue. Neither shifts, mirrors nor small rotations change it; swapped
colour channels, shuffled labels or another normalization do.
"""

import numpy as np

HUES = {
    "red": (220, 50, 40),
    "green": (50, 180, 60),
    "blue": (50, 70, 220),
    "yellow": (220, 200, 50),
    "cyan": (50, 200, 210),
}
SHAPES = ("disc", "square")
TRAIN, TEST = 200, 50  # images a class


def load(name, data_dir=None):
    """Returns ((images, labels) to train on, the same to test on, class names, source).

    The arguments are those of every loader; nothing is read.
    """
    class_names = [f"{hue} {shape}" for hue in HUES for shape in SHAPES]
    rng = np.random.default_rng(2111)
    parts = [_draw(rng, count, len(class_names)) for count in (TRAIN, TEST)]
    return *parts, class_names, "the embedded synthetic set (not photographs)"


def _draw(rng, count, classes):
    """Returns `count` images of each class, in a random order, and their labels."""
    labels = rng.permutation(np.repeat(np.arange(classes), count))
    y, x = np.mgrid[:32, :32] - 15.5
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    colours = np.array(list(HUES.values()))
    for i, label in enumerate(labels):
        dx, dy, radius = rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(7, 11)
        distances = np.hypot(x - dx, y - dy), np.maximum(abs(x - dx), abs(y - dy)) * 1.13
        inside = distances[label % len(SHAPES)] < radius
        background = rng.uniform(30, 220)
        colour = colours[label // len(SHAPES)] * rng.uniform(0.6, 1.1)
        image = np.where(inside[..., None], colour, background)
        images[i] = np.clip(image + rng.normal(0, 20, image.shape), 0, 255)
    return images, labels.astype(np.int64)
