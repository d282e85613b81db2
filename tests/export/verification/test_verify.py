"""The verification's stages, on a truth and candidates whose logits are given."""

import types

import numpy as np
import pytest

from export.runtime.signatures import IMAGE, Scores, Signature
from export.verification import limits
from export.verification.verify import (
    AccuracyError,
    Check,
    InterfaceError,
    ValuesError,
    WeightsError,
    accuracy,
)
from training.cli import InputError

CLASSES, COUNT = 5, 200
NAMES = [f"class {i}" for i in range(CLASSES)]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
PROJECTION = RNG.normal(0, 0.2, (32 * 32 * 3, CLASSES))


def logits_of(images):
    pixels = images.reshape(len(images), -1) / 255 - 0.5
    return (pixels @ PROJECTION).astype(np.float32)


TRUE = logits_of(IMAGES)
LABELS = np.where(np.arange(COUNT) % 4, TRUE.argmax(-1), 0)
TOP1 = float(np.mean(TRUE.argmax(-1) == LABELS))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


class Candidate:
    """A model with the truth's logits, changed by a function."""

    source = "candidate"

    def __init__(
        self, change=lambda logits: logits, labels=NAMES, probabilities=softmax, shape=None
    ):
        self.change, self.labels, self.probabilities = change, labels, probabilities
        self.shape = shape or (None, CLASSES)

    def signatures(self):
        outputs = dict.fromkeys(Scores._fields, self.shape)
        return {IMAGE.signature: Signature({IMAGE.name: IMAGE.shape}, outputs)}

    def predict(self, images):
        logits = self.change(logits_of(images))
        return Scores(logits, self.probabilities(logits))


def check(candidate, precision="float32", labels=LABELS, top1=TOP1, missing=(), rounding=0.0):
    run = types.SimpleNamespace(top1=top1, config={"precision": "float32"})
    source = types.SimpleNamespace(
        class_names=NAMES,
        run=run,
        dataset=types.SimpleNamespace(test=IMAGES),
        evaluate=lambda images, advance: logits_of(images),
        rounding=lambda images: rounding,
    )
    return Check(source, candidate, precision, IMAGES, labels, missing).run()


def add(amount):
    """Returns a change of one logit of each image by `amount`."""
    offset = np.eye(CLASSES, dtype=np.float32)[2] * np.float32(amount)
    return lambda logits: logits + offset


@pytest.mark.parametrize("precision", limits.LIMITS)
def test_the_truth_itself_passes(precision):
    report = check(Candidate(), precision)
    assert [stage["passed"] for stage in report.values()] == [True] * 4
    assert report["accuracy"]["top1"] == TOP1


def test_a_difference_within_rounding_passes():
    assert check(Candidate(add(4e-5)))["values"]["largest_absolute_difference"] < 5e-5


def test_the_truths_own_rounding_is_let_through_twice():
    assert check(Candidate(add(8e-5)), rounding=4.5e-5)["values"]["passed"]
    with pytest.raises(ValuesError, match=r"at most 7e-05 is let through"):
        check(Candidate(add(8e-5)), rounding=3.5e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add(8e-5), r"largest difference of a logit is [78].*e-05, at most 5e-05"),
        (lambda logits: logits[:, ::-1], "share of images with the same first choice"),
        (lambda logits: np.where(logits > logits.max() - 0.1, np.nan, logits), "nan"),
        (lambda logits: logits * np.float32(np.inf), "inf"),
    ],
)
def test_values_that_differ(change, message):
    with np.errstate(invalid="ignore"), pytest.raises((ValuesError, InterfaceError), match=message):
        check(Candidate(change))


def test_softmax_twice():
    with pytest.raises(ValuesError, match="distance of probabilities from softmax"):
        check(Candidate(probabilities=lambda logits: softmax(softmax(logits))))


def test_the_limit_grows_with_large_logits():
    """At logits of 1000, 16 units in the last place are more than 5e-5."""
    scale = np.float32(1000 / np.abs(TRUE).max())
    source_scaled = Candidate(lambda logits: logits * scale * np.float32(1 + 8 * 2.0**-23))
    subject = Check.__new__(Check)
    subject.limits, subject.true_logits = limits.LIMITS["float32"], TRUE * scale
    assert subject.logits_limit == pytest.approx(1000 * 16 * 2.0**-23, rel=1e-5)
    assert np.abs(source_scaled.predict(IMAGES).logits - TRUE * scale).max() < subject.logits_limit


def test_ties_may_go_either_way():
    """Where the truth's two first choices differ by less than the limit, either is right."""
    image = IMAGES[:1]
    first, second = np.argsort(-TRUE[0])[:2]
    gap = TRUE[0, first] - TRUE[0, second]

    def swap(logits):
        swapped = logits.copy()
        swapped[:, second] += gap + np.float32(2e-5)
        return swapped

    for near, agreement in ((True, 1.0), (False, 0.0)):
        true = TRUE[:1].copy()
        true[0, second] = true[0, first] - (2e-5 if near else 1e-2)
        source = types.SimpleNamespace(rounding=lambda images: 0.0)
        subject = Check(source, None, "float32", image, LABELS[:1])
        subject.true_logits, subject.found = true, Scores(swap(TRUE[:1]), None)
        assert subject.agrees.mean() == agreement


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (Candidate(labels=NAMES[1:] + NAMES[:1]), "class names"),
        (Candidate(labels=None), "class names"),
        (Candidate(shape=(1, CLASSES)), r"it declares .*\(1, 5\)"),
        (Candidate(lambda logits: logits - logits.mean(0)), "logits change by .* with the batch"),
    ],
)
def test_another_interface(candidate, message):
    with pytest.raises(InterfaceError, match=message):
        check(candidate)


def test_a_batch_that_is_refused():
    candidate = Candidate()
    predict = candidate.predict

    def refuse(images):
        if len(images) == 3:
            raise InputError("candidate: a batch of 3 is refused")
        return predict(images)

    candidate.predict = refuse
    with pytest.raises(InterfaceError, match="a batch of 3 is refused"):
        check(candidate)


def test_missing_weights():
    with pytest.raises(WeightsError, match=r"conv1, and those of 1 more are not the trained ones"):
        check(Candidate(), missing=["conv1", "conv2"])


@pytest.mark.parametrize(("lost", "passes"), [(1, True), (2, False)])
def test_int8_may_lose_half_a_point(lost, passes):
    """Half a point of 200 images is one of them."""
    found = TRUE.copy()
    right = np.flatnonzero(TRUE.argmax(-1) == LABELS)[:lost]
    found[right] = np.roll(found[right], 1, -1)
    subject = Check(types.SimpleNamespace(run=None), None, "int8", IMAGES, LABELS)
    subject.true_logits, subject.found = TRUE, Scores(found, softmax(found))
    numbers, complaints = accuracy(subject)
    assert numbers["loss"] == pytest.approx(lost / COUNT)
    assert (not complaints) is passes


@pytest.mark.parametrize("off", [0.02, -0.02])
def test_a_truth_that_is_not_what_was_trained(off):
    with pytest.raises(AccuracyError, match=r"result\.json says"):
        check(Candidate(), top1=TOP1 + off)


def test_sampling_error():
    config = {"precision": "float32"}
    assert limits.sampling_error(0.66, 10_000, 10_000, config) == 0.0005
    assert limits.sampling_error(0.5, 1000, 10_000, config) == pytest.approx(
        4 * (0.25 / 1000 * 0.9) ** 0.5 + 0.0005
    )
