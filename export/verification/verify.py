"""Verification: whether an exported model is the one that was trained, on real images.

Four stages compare it with the reference: the Keras model in float32, unfolded. Neither the
SavedModel nor the folding is trusted. A SavedModel that belongs to no run is its own reference.
Without a run, a further stage judges whether the model gets the pixels that it was made for. Of a
model that is not an image classifier, names, shapes and values are compared.
"""

from functools import cached_property

import numpy as np
import tensorflow as tf

from export.runtime.signatures import IMAGE, Scores
from export.verification import plausibility, tensors
from export.verification.limits import LIMITS, sampling_error
from export.verification.source import in_batches
from training.cli import FailedError, InputError

BATCHES = (1, 3, 64)
OTHER_SIZE_IMAGES = 8
ROUNDED = 64  # images that the reference's rounding is measured on: where the file differs most


class VerificationError(FailedError):
    """An exported model is not the one that was trained.

    `stage` is the name of the stage that failed, `report` the numbers of the stages up to it.
    """

    def __init__(self, stage, message, report):
        super().__init__(f"not verified, {stage}: {message}")
        self.stage = stage
        self.report = report


def verify(export, candidate, advance=lambda count: None):
    """Runs the stages, up to the first that fails.

    Args:
        export: The `Export`.
        candidate: The exported model, one of `local_models` or with the same methods.
        advance: Callable that receives the number of images that were computed.

    Returns:
        Dictionary, name of the stage to its numbers.

    Raises:
        VerificationError: If a stage failed.
        InputError: If an image cannot be read. That says nothing about the candidate.
    """
    if isinstance(export.source, tensors.TensorSource):
        check, stages = tensors.Check(export, candidate, advance), TENSOR_STAGES
    else:
        check, stages = Check(export, candidate, advance), STAGES
    report = {}
    for name, stage in stages.items():
        if name == "pixels" and (export.source.run or not export.judges_pixels):
            continue
        try:
            with np.errstate(invalid="ignore"):  # NaN is found, and reported
                numbers, complaints = stage(check)
        except tensors.RejectedError as error:
            numbers, complaints = {}, [str(error)]
        report[name] = {"passed": not complaints, **numbers}
        if complaints:
            raise VerificationError(name, "; ".join(complaints), report)
    return report


class Check:
    """What the stages compare: the reference and the candidate on the images of an `Export`."""

    def __init__(self, export, candidate, advance=lambda count: None):
        self.source, self.images, self.labels = export.source, export.images, export.labels
        self.missing_weights = export.missing_weights
        self.limits = LIMITS[export.precision]
        self.candidate = candidate
        self.advance = advance

    def predict(self, images):
        """Returns the candidate's `Scores` of images; RejectedError if it rejects them."""
        try:
            return self.candidate.predict(images)
        except InputError as error:
            raise tensors.RejectedError(str(error)) from None

    @cached_property
    def true_logits(self):
        """The reference's logits, float32 [N, classes]."""
        return self.source.evaluate(self.images, self.advance)

    @cached_property
    def found(self):
        """The candidate's `Scores`."""

        def predict(batch):
            return np.stack(self.predict(batch), axis=1)

        joined = in_batches(predict, self.images, self.advance)
        return Scores(joined[:, 0], joined[:, 1])

    @property
    def logits_limit(self):
        """The largest absolute difference of a logit that is accepted."""
        limit = self.limits.of_logits(_largest(self.true_logits))
        return np.inf if limit is None else limit

    def accepts(self, found, true):
        """Whether two models' logits of a few images are equal within the tolerance.

        int8 has none for logits: there the mean divergence is compared.
        """
        if self.limits.logits_relative is None:
            return np.mean(_divergence(true, found)) <= self.limits.kl
        return _largest(found - true) <= self.logits_limit

    @cached_property
    def values_limit(self):
        """`logits_limit`, or twice the reference's own rounding if that limit is exceeded."""
        limit = self.logits_limit
        differences = np.abs(self.found.logits - self.true_logits).max(-1)
        if self.limits.logits is None or differences.max() <= limit:
            return limit
        worst = np.sort(np.argsort(-differences)[:ROUNDED])
        return max(limit, 2 * self.source.rounding(self.images[worst]))

    @cached_property
    def margin(self):
        """Margin between the reference's top class and the candidate's, by image."""
        theirs = self.found.logits.argmax(-1)[:, None]
        return self.true_logits.max(-1) - np.take_along_axis(self.true_logits, theirs, -1)[:, 0]

    @cached_property
    def ties(self):
        """Mask of the images whose top two classes rounding alone may swap."""
        if self.limits.logits is None:  # the limit of the agreement allows for them
            return np.zeros(len(self.images), bool)
        return (self.margin > 0) & (self.margin <= 2 * self.values_limit)


def pixels(check):
    """Top-1 of a SavedModel that belongs to no run, against chance and other normalizations."""
    if check.labels is None:
        return {"passed": None}, []
    return plausibility.check(check.source, check.images, check.labels, check.true_logits)


def weights(check):
    """The trained weights are in the SavedModel and in the file, bit-exact."""
    missing = check.missing_weights
    if missing is None:
        return {"passed": None}, []
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    complaints = [f"{name}{more} differ from the trained weights" for name in missing[:1]]
    return {"missing": missing}, complaints


def interface(check):
    """Names, shapes and class names; images give the same logits in batches of 1, 3 and 64."""
    classes = check.true_logits.shape[-1]
    image = tuple(check.source.classify.input_signature[0].shape)
    expected = {IMAGE.name: image}, dict.fromkeys(Scores._fields, (None, classes))
    declared = check.candidate.signatures()[IMAGE.signature]
    if tuple(declared) != expected:
        return {}, [f"it declares {declared.inputs} → {declared.outputs}, not {expected}"]
    if check.source.class_names and check.candidate.labels != check.source.class_names:
        return {}, ["its class names differ from the data set's"]
    complaints, largest, is_steady = [], 0.0, True
    some = check.images[: max(BATCHES)]
    for size in BATCHES:
        images = np.resize(some, (size, *some.shape[1:])).astype(np.float32)
        together, alone = (check.predict(part).logits for part in (images, images[-1:]))
        largest = float(np.maximum(largest, _largest(together[-1:] - alone)))  # or NaN
        is_steady &= check.accepts(together[-1:], alone)
    if not is_steady:
        complaints.append(f"an image's logits change by {largest:.3g} with the batch")
    numbers = {"batches": list(BATCHES), "largest_difference_by_batch": largest}
    if None in image[1:]:
        others = np.asarray(some[:OTHER_SIZE_IMAGES])
        for axis in (1, 2):
            size = image[axis] or _other_size(others.shape[axis])
            others = np.take(others, np.arange(size), axis, mode="wrap")
        others = others.astype(np.float32)
        found, true = check.predict(others).logits, in_batches(check.source.true_logits, others)
        numbers["images_of_another_size"] = list(others.shape[1:3])
        numbers["largest_difference_of_another_size"] = _largest(found - true)
        if not check.accepts(found, true):
            complaints.append(
                f"logits of {others.shape[1]}×{others.shape[2]} images differ by "
                f"{_largest(found - true):.3g}"
            )
    return numbers, complaints


def _other_size(length):
    """Returns three quarters of a length as a multiple of 32; of 32 or less the double."""
    return max(length * 3 // 4 // 32 * 32, 32) if length > 32 else 2 * length


def values(check):
    """Logits, probabilities and top class, image by image."""
    limits, true, (logits, probabilities) = check.limits, check.true_logits, check.found
    numbers = {
        "images": len(true),
        "largest_logit": _largest(true),
        "largest_absolute_difference": _largest(logits - true),
        "largest_relative_difference": _largest(logits - true) / (_largest(true) or 1),
        "mean_kl": float(np.mean(_divergence(true, logits))),
        "top1_agreement": float(np.mean((check.margin == 0) | check.ties)),
        "ties": int(check.ties.sum()),
        "largest_softmax_error": _largest(probabilities - _softmax(logits)),
    }
    most = {
        "largest_absolute_difference": check.values_limit,
        "mean_kl": limits.kl,
        "largest_softmax_error": limits.softmax,
    }
    # A NaN fails every comparison.
    complaints = [
        f"{key.replace('_', ' ')} is {numbers[key]:.3g}, expected at most {limit:.3g}"
        for key, limit in most.items()
        if not numbers[key] <= limit
    ]
    if not numbers["top1_agreement"] >= limits.agreement:
        complaints.append(
            f"top1 agreement is {numbers['top1_agreement']:.3g}, expected at least "
            f"{limits.agreement:.3g}"
        )
    written = {key: limit for key, limit in most.items() if np.isfinite(limit)}
    return {**numbers, "limits": {**written, "top1_agreement": limits.agreement}}, complaints


def accuracy(check):
    """Top-1 of the candidate and the reference, and of the reference against `result.json`."""
    if check.labels is None:
        return {"passed": None}, []
    count, limit = len(check.labels), check.limits.top1_loss
    true, found = (
        float(np.mean(logits.argmax(-1) == check.labels))
        for logits in (check.true_logits, check.found.logits)
    )
    numbers = {"images": count, "top1": found, "top1_of_truth": true, "top1_lost": true - found}
    numbers["limits"] = {"top1_lost": limit}
    complaints = []
    if true - found > limit + check.ties.mean() + 1e-9:  # a tie may go either way
        complaints.append(
            f"top-1 dropped from {true:.2%} to {found:.2%}, expected at most {limit:.2%} less"
        )
    if run := check.source.run:
        allowed = sampling_error(run.top1, count, check.source.tested, run.config)
        numbers |= {"top1_of_result_json": run.top1, "allowed_from_result_json": allowed}
        if abs(true - run.top1) > allowed:
            complaints.append(
                f"the reference's top-1 is {true:.2%} on {count} images, and result.json has "
                f"{run.top1:.2%} (±{allowed:.2%} for a sample of this size): other weights, or "
                "other data"
            )
    return numbers, complaints


# In this order; `pixels` only without a run.
STAGES = {
    "pixels": pixels,
    "weights": weights,
    "interface": interface,
    "values": values,
    "accuracy": accuracy,
}
TENSOR_STAGES = {"weights": weights, **tensors.STAGES}


def _largest(array):
    return float(np.abs(array).max())


def _softmax(logits):
    return tf.nn.softmax(logits.astype(np.float64)).numpy()


def _divergence(true, logits):
    """Returns the Kullback–Leibler divergence of the softmax of each row, in nats."""
    log_p, log_q = (tf.nn.log_softmax(rows.astype(np.float64)).numpy() for rows in (true, logits))
    return np.sum(np.exp(log_p) * (log_p - log_q), -1)
