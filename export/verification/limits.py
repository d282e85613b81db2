"""Tolerances: how much an exported model may differ from the trained one."""

from typing import NamedTuple

import numpy as np

EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10}


class Limits(NamedTuple):
    """The tolerances of a precision; `None` means without a limit.

    Attributes:
        logits: Absolute difference of a logit.
        logits_relative: The same as a part of the largest logit; the larger one of both counts.
        kl: Mean Kullback–Leibler divergence of the probabilities, in nats.
        agreement: Least share of the images with the same top-1, ties left out.
        top1_loss: Largest loss of top-1, 0–1.
        softmax: Absolute difference of the probabilities from the softmax of the logits.
    """

    logits: float | None
    logits_relative: float | None
    kl: float
    agreement: float
    top1_loss: float
    softmax: float

    def of_logits(self, largest):
        """Returns the accepted difference of a logit, given the largest one; `None`: any."""
        if self.logits_relative is None:
            return None
        return max(self.logits or 0.0, self.logits_relative * largest)


LIMITS = {
    # Four times the largest difference among 100 good exports; see docs/verification.md.
    "float32": Limits(5e-5, 16 * EPSILON["float32"], 1e-8, 1.0, 0.0, 1e-6),
    "float16": Limits(None, 16 * EPSILON["float16"], 1e-4, 0.99, 0.002, 1e-3),
    "int8": Limits(None, None, 0.05, 0.9, 0.005, 5e-3),
}


def sampling_error(top1, count, total, config):
    """Returns how much the top-1 of `count` of `total` images may differ from the top-1 of all.

    Four standard deviations of a draw without replacement, and a margin for the training's own
    precision.
    """
    deviation = np.sqrt(top1 * (1 - top1) / count * (1 - count / total))
    return float(4 * deviation + (0.0005 if config["precision"] == "float32" else 0.005))
