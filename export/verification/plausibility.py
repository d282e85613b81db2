"""Whether a classifier of no run gets the pixels that it was made for, judged by its top-1.

A SavedModel and the file made from it agree on wrong pixels too. Its accuracy shows the fault.
"""

from dataclasses import replace

import numpy as np

from export.runtime.preprocessing import OPTIONS, UNCHANGED, Preprocessing
from training import recipes

DEVIATIONS = 3.0
LEAST_ODDS_RATIO = 1.5
TRIED_IMAGES = 100
TRIED = (
    UNCHANGED,
    Preprocessing("0..1"),
    Preprocessing("-1..1"),
    *dict.fromkeys(Preprocessing("0..1", r.mean, r.std) for r in recipes.RECIPES.values()),
    Preprocessing("0..1", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
    Preprocessing("0..255", (123.68, 116.779, 103.939)),  # Caffe's, of Keras' own ResNet50
)


def chance(labels, classes):
    """Returns the top-1 of the best classifier that does not look at the picture."""
    return max(1 / classes, np.bincount(labels).max() / len(labels))


def is_better_than_chance(top1, count, by_chance):
    """Whether a top-1 of `count` images is better than chance by a wide margin.

    The odds at the lower end of Wilson's interval, at 3 standard deviations, must be more than 1.5
    times the odds of chance.
    """
    z = DEVIATIONS**2 / count
    spread = DEVIATIONS * np.sqrt(top1 * (1 - top1) / count + z / (4 * count))
    lower = (top1 + z / 2 - spread) / (1 + z)
    return lower * (1 - by_chance) > LEAST_ODDS_RATIO * by_chance * (1 - lower)


def check(source, images, labels, logits):
    """Judges the top-1 of a `Source` without a run, whose logits of the images are given.

    Returns:
        A dictionary of numbers for the report, and a list of complaints.
    """
    right = logits.argmax(-1) == labels
    top1, by_chance = float(right.mean()), chance(labels, logits.shape[-1])
    numbers = {"top1_by_chance": float(by_chance)}
    if not is_better_than_chance(1.0, len(labels), by_chance):  # few images, or all of one class
        return {"passed": None, **numbers}, []
    plausible = is_better_than_chance(top1, len(labels), by_chance)
    if plausible and source.stated:
        return numbers, []
    better, share = _better(source, images, labels)
    if better:
        cause = f"It most likely takes other pixels: with {better}, {share:.0%} are right"
    else:
        cause = (
            f"The likely cause is another normalization or order of channels ({OPTIONS}), another "
            "order of classes, or another --dataset"
        )
    if plausible and not better:
        return numbers, []
    numbers["better_preprocessing"] = better and str(better)
    return numbers, [
        f"top-1 of {source.name} is {top1:.1%} on {len(labels)} images, and {by_chance:.1%} "
        f"by chance, with {source.normalize}. {cause}"
    ]


def _better(source, images, labels):
    """Returns the form of the pixels that more images are right with, and their share; or None."""
    step = -(-len(images) // TRIED_IMAGES)
    images, labels = images[::step].astype(np.float32), labels[::step]

    def is_right(preprocessing):
        logits = source.classify.network(preprocessing(images))["logits"]
        return np.argmax(logits, -1) == labels

    given = is_right(source.normalize)
    best, most = None, given.sum()
    for form in TRIED:
        for channels in ("rgb", "bgr"):
            other = replace(form, channels=channels)
            right = is_right(other)
            gained, lost = np.sum(right & ~given), np.sum(given & ~right)
            # McNemar's test, at 4 standard deviations.
            if right.sum() > most and gained - lost > 4 * np.sqrt(gained + lost):
                best, most = other, right.sum()
    return best, most / len(labels)
