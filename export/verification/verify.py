"""Verification: whether an exported model is the one that was trained, shown on real images.

Four stages, each with numbers, limits and an error of its own. The truth is the run's Keras model
in float32, unfolded: neither the SavedModel nor the folding is trusted. A SavedModel that belongs
to no run is itself the truth, and another stage judges whether it gets the right pixels.
"""

from functools import cached_property

import numpy as np
import tensorflow as tf

from export.runtime.signatures import IMAGE, Scores
from export.verification import plausibility
from export.verification.limits import LIMITS, sampling_error
from export.verification.source import in_batches
from training.cli import FailedError, InputError

BATCHES = (1, 3, 64)


class VerificationError(FailedError):
    """An exported model is not the one that was trained.

    `stage` is the stage that found it, `report` the numbers of the stages up to it.
    """

    stage = None

    def __init__(self, message, report):
        super().__init__(f"not verified, {self.stage}: {message}")
        self.report = report


class PixelsError(VerificationError):
    """A SavedModel that belongs to no run is not right about the pictures as it gets them."""

    stage = "pixels"


class WeightsError(VerificationError):
    """The numbers in a file are not the trained ones."""

    stage = "weights"


class InterfaceError(VerificationError):
    """Names, shapes or class names are others, or a batch size is refused."""

    stage = "interface"


class ValuesError(VerificationError):
    """The answers to real images are others."""

    stage = "values"


class AccuracyError(VerificationError):
    """It is right less often, or the truth is not as often as its training said."""

    stage = "accuracy"


class Check:
    """One exported model against the truth, on some images.

    Args:
        source: A `Source`.
        candidate: The exported model, one of `local_models` or with the same methods.
        precision: A key of `LIMITS`.
        images: uint8 array [N, 32, 32, 3].
        labels: Integer array [N], or `None`: then the accuracy is not checked.
        missing_weights: List of names, those of the trained numbers that are not in the file.
        advance: Function of a number of images that one side has done.
    """

    def __init__(
        self, source, candidate, precision, images, labels, missing_weights=(), advance=None
    ):
        self.source = source
        self.candidate = candidate
        self.limits = LIMITS[precision]
        self.images = images
        self.labels = labels
        self.missing_weights = list(missing_weights)
        self.advance = advance or (lambda count: None)

    @cached_property
    def true_logits(self):
        """float32 [N, classes]."""
        return self.source.evaluate(self.images, self.advance)

    @cached_property
    def found(self):
        """The candidate's `Scores` of the images."""
        joined = in_batches(self._predict, self.images, self.advance)
        return Scores(joined[:, 0], joined[:, 1])

    def _predict(self, batch):
        return np.stack(self.candidate.predict(batch), axis=1)

    @cached_property
    def values_limit(self):
        """`logits_limit`, or twice the truth's own rounding where that is what was exceeded."""
        limit = self.logits_limit
        if self.limits.logits is None or _largest(self.found.logits - self.true_logits) <= limit:
            return limit
        return max(limit, 2 * self.source.rounding(self.images))

    @property
    def logits_limit(self):
        """The largest absolute difference of a logit that is let through."""
        largest = float(np.abs(self.true_logits).max())
        absolute, relative = self.limits.logits, self.limits.logits_relative
        return np.inf if relative is None else max(absolute or 0.0, relative * largest)

    @cached_property
    def ties(self):
        """Mask of the images whose two first choices rounding alone may swap."""
        if self.limits.logits is None:  # the agreement that is asked leaves room for them
            return np.zeros(len(self.images), bool)
        return (self._margin > 0) & (self._margin <= 2 * self.values_limit)

    @property
    def agrees(self):
        """Mask of the images with the same first choice, ties included."""
        return (self._margin == 0) | self.ties

    @cached_property
    def _margin(self):
        """By how much the truth prefers its own first choice to the candidate's."""
        theirs = self.found.logits.argmax(-1)[:, None]
        return self.true_logits.max(-1) - np.take_along_axis(self.true_logits, theirs, -1)[:, 0]

    def run(self):
        """Runs the stages; returns stage -> numbers, or raises the error of the first to fail."""
        report = {}
        stages = STAGES if self.source.run else ((PixelsError, pixels), *STAGES)
        for error, stage in stages:
            try:
                with np.errstate(invalid="ignore"):  # NaN is found, and said
                    numbers, complaints = stage(self)
            except InputError as refused:  # what the candidate says of its own inputs
                numbers, complaints = {}, [str(refused)]
            report[error.stage] = {"passed": not complaints, **numbers}
            if complaints:
                raise error("; ".join(complaints), report)
        return report


def pixels(check):
    """Top-1 of a SavedModel that belongs to no run, against chance and other normalizations."""
    if check.labels is None:
        return {"passed": None}, []
    return plausibility.check(check.source, check.images, check.labels, check.true_logits)


def weights(check):
    """The trained numbers are in the SavedModel and in the file, to the last bit."""
    missing = check.missing_weights
    more = f", and those of {len(missing) - 1} more" if missing[1:] else ""
    complaints = [f"the numbers of {name}{more} are not the trained ones" for name in missing[:1]]
    return {"missing": missing}, complaints


def interface(check):
    """Names, shapes and class names, and batches of 1, 3 and 64, each image for itself."""
    classes = check.true_logits.shape[-1]
    expected = {IMAGE.name: IMAGE.shape}, dict.fromkeys(Scores._fields, (None, classes))
    declared = check.candidate.signatures()[IMAGE.signature]
    complaints = []
    if (declared.inputs, declared.outputs) != expected:
        complaints.append(f"it declares {declared.inputs} → {declared.outputs}, not {expected}")
    if check.source.class_names and check.candidate.labels != check.source.class_names:
        complaints.append("its class names are not those of the run's data set")
    if complaints:
        return {}, complaints
    largest = 0.0
    for size in BATCHES:
        images = np.resize(check.images, (size, *check.images.shape[1:])).astype(np.float32)
        together, alone = (check.candidate.predict(part).logits for part in (images, images[-1:]))
        largest = max(largest, _largest(together[-1:] - alone))
    if not largest <= check.logits_limit:
        complaints.append(f"an image's logits change by {largest:.3g} with the batch that it is in")
    return {"batches": list(BATCHES), "largest_difference_by_batch": largest}, complaints


def values(check):
    """Logits, probabilities and the first choice, image by image."""
    limits, true, (logits, probabilities) = check.limits, check.true_logits, check.found
    numbers = {
        "images": len(true),
        "largest_logit": _largest(true),
        "largest_absolute_difference": _largest(logits - true),
        "largest_relative_difference": _largest(logits - true) / _largest(true),
        "mean_kl": float(np.mean(_divergence(true, logits))),
        "top1_agreement": float(np.mean(check.agrees)),
        "ties": int(check.ties.sum()),
        "largest_softmax_error": _largest(probabilities - _softmax(logits)),
    }
    # number -> (limit, whether it is a least one, what it is)
    bounds = {
        "largest_absolute_difference": (check.values_limit, False, "largest difference of a logit"),
        "mean_kl": (limits.kl, False, "mean divergence of the probabilities, in nats"),
        "top1_agreement": (limits.agreement, True, "share of images with the same first choice"),
        "largest_softmax_error": (limits.softmax, False, "distance of probabilities from softmax"),
    }
    complaints = [
        f"the {what} is {numbers[key]:.3g}, {'at least' if least else 'at most'} {limit:.3g} is"
        " let through"
        for key, (limit, least, what) in bounds.items()
        # A NaN fails whatever it is compared with.
        if not (numbers[key] >= limit if least else numbers[key] <= limit)
    ]
    written = {key: limit for key, (limit, *_) in bounds.items() if np.isfinite(limit)}
    return {**numbers, "limits": written}, complaints


def accuracy(check):
    """Top-1 of both sides, and of the truth against what the training reported."""
    if check.labels is None:
        return {"passed": None}, []
    count, limit = len(check.labels), check.limits.top1_loss
    true, found = (
        float(np.mean(logits.argmax(-1) == check.labels))
        for logits in (check.true_logits, check.found.logits)
    )
    numbers = {"images": count, "top1": found, "top1_of_truth": true, "loss": true - found}
    numbers["limits"] = {"loss": limit}
    complaints = []
    if true - found > limit + check.ties.mean() + 1e-9:  # a tie may go either way
        complaints.append(
            f"top-1 is {found:.2%} where it was {true:.2%}; a loss of {limit:.2%} is let through"
        )
    if run := check.source.run:
        allowed = sampling_error(run.top1, count, len(check.source.dataset.test), run.config)
        numbers |= {"top1_of_result_json": run.top1, "allowed_from_result_json": allowed}
        if abs(true - run.top1) > allowed:
            complaints.append(
                f"the truth's top-1 is {true:.2%} on {count} images, and result.json says "
                f"{run.top1:.2%} (±{allowed:.2%} for a sample of this size): other weights, or "
                "other data"
            )
    return numbers, complaints


STAGES = (
    (WeightsError, weights),
    (InterfaceError, interface),
    (ValuesError, values),
    (AccuracyError, accuracy),
)


def _largest(array):
    return float(np.abs(array).max())


def _softmax(logits):
    return tf.nn.softmax(logits.astype(np.float64)).numpy()


def _divergence(true, logits):
    """Returns the Kullback–Leibler divergence of the softmax of each row, in nats."""
    log_p, log_q = (tf.nn.log_softmax(rows.astype(np.float64)).numpy() for rows in (true, logits))
    return np.sum(np.exp(log_p) * (log_p - log_q), -1)
