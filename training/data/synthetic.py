"""An embedded data set that a small network learns in a few epochs: coloured stripes.

A class is a colour and the stripes' direction, which neither shifts, mirrors nor rotations of some
degrees change. What a wrong pipeline does shows: swapped channels make red blue and yellow cyan,
swapped axes turn the stripes, and of the two greys another normalization makes one.
"""

import numpy as np

COLOURS = {
    "red": (200, 60, 50),
    "blue": (50, 60, 200),
    "yellow": (190, 180, 60),
    "dark grey": (80, 80, 80),
    "light grey": (190, 190, 190),
}
DIRECTIONS = {"horizontal": 90, "vertical": 0}  # degrees from the x axis to that of the wave
TRAIN, TEST = 200, 50  # images a class


def load(name, data_dir=None):
    """Returns ((images, labels) to train on, the same to test on, class names, source).

    The arguments are those of every loader; nothing is read.
    """
    class_names = [f"{colour} {direction}" for colour in COLOURS for direction in DIRECTIONS]
    rng = np.random.default_rng(2111)
    parts = [_draw(rng, count, len(class_names)) for count in (TRAIN, TEST)]
    return *parts, class_names, "the embedded synthetic set (10 classes of stripes)"


def _draw(rng, count, classes):
    """Returns `count` images of each class, in a random order, and their labels."""
    labels = rng.permutation(np.repeat(np.arange(classes), count))
    colours = np.array(list(COLOURS.values()))[labels // len(DIRECTIONS)]
    degrees = np.array(list(DIRECTIONS.values()))[labels % len(DIRECTIONS)]

    def draw(low, high):
        return rng.uniform(low, high, (len(labels), 1, 1))

    angle = np.radians(degrees[:, None, None] + draw(-10, 10))
    y, x = np.mgrid[:32, :32]
    along = np.cos(angle) * x + np.sin(angle) * y
    wave = np.sin(2 * np.pi * (along / draw(5, 9) + draw(0, 1)))
    # The same contrast in every colour, so that dark stripes are no harder to see.
    images = colours[:, None, None] * draw(0.85, 1.1)[..., None] + 40 * wave[..., None]
    images += rng.normal(0, 20, images.shape)
    return np.clip(images, 0, 255).astype(np.uint8), labels
