"""The verification's stages, on a reference and candidates whose logits are given."""

import types

import numpy as np
import pytest

from export.runtime.signatures import IMAGE, Scores, Signature
from export.verification import limits
from export.verification.release import Export
from export.verification.verify import Check, VerificationError, accuracy, verify
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
    """A model with the reference's logits, changed by a function."""

    def __init__(
        self, change=lambda logits: logits, labels=NAMES, probabilities=softmax, shape=None
    ):
        self.change, self.labels, self.probabilities = change, labels, probabilities
        self.shape = shape or (None, CLASSES)

    def signatures(self):
        outputs = dict.fromkeys(Scores._fields, self.shape)
        return {IMAGE.signature: Signature({IMAGE.name: (None, 32, 32, 3)}, outputs)}

    def predict(self, images):
        logits = self.change(logits_of(images))
        return Scores(logits, self.probabilities(logits))


def export_of(precision="float32", images=IMAGES, labels=LABELS, top1=TOP1, rounding=0.0, **more):
    source = types.SimpleNamespace(
        class_names=NAMES,
        run=types.SimpleNamespace(top1=top1, config={"precision": "float32"}),
        tested=len(IMAGES),
        evaluate=lambda images, advance: logits_of(images),
        rounding=lambda images: rounding,
        classify=types.SimpleNamespace(
            input_signature=[types.SimpleNamespace(shape=(None, 32, 32, 3))]
        ),
    )
    more = {"missing_weights": [], **more}
    return Export(source, None, b"", None, precision, images, labels, **more)


def check_of(true, found, images=IMAGES, labels=LABELS, precision="float32"):
    """Returns a `Check` whose logits are known."""
    check = Check(export_of(precision, images, labels), None)
    check.true_logits, check.found = true, Scores(found, softmax(found))
    return check


def add(amount):
    """Returns a change of one logit of each image by `amount`."""
    offset = np.eye(CLASSES, dtype=np.float32)[2] * np.float32(amount)
    return lambda logits: logits + offset


@pytest.mark.parametrize("precision", limits.LIMITS)
def test_the_reference_itself_passes(precision):
    report = verify(export_of(precision), Candidate())
    assert [stage["passed"] for stage in report.values()] == [True] * 4
    assert report["accuracy"]["top1"] == TOP1


def test_a_difference_within_rounding_passes():
    report = verify(export_of(), Candidate(add(4e-5)))
    assert report["values"]["largest_absolute_difference"] < 5e-5
    assert verify(export_of(rounding=4.5e-5), Candidate(add(8e-5)))["values"]["passed"]
    with pytest.raises(VerificationError, match="at most 7e-05"):
        verify(export_of(rounding=3.5e-5), Candidate(add(8e-5)))


def refuse_three(logits):
    if len(logits) == 3:
        raise InputError("a batch of 3 is refused")
    return logits


@pytest.mark.parametrize(
    ("candidate", "stage", "message"),
    [
        (Candidate(add(8e-5)), "values", r"absolute difference is [78].*e-05, .* at most 5e-05"),
        (Candidate(lambda logits: logits[:, ::-1]), "values", "top1 agreement"),
        (Candidate(lambda logits: logits * np.float32("inf")), "values", "nan"),
        (
            Candidate(lambda x: np.where(x.max() > x.max(-1, keepdims=True), x, np.nan)),
            "values",
            "nan",
        ),
        (Candidate(probabilities=lambda x: softmax(softmax(x))), "values", "softmax error"),
        (Candidate(labels=NAMES[1:] + NAMES[:1]), "interface", "class names"),
        (Candidate(labels=None), "interface", "class names"),
        (Candidate(shape=(1, CLASSES)), "interface", r"it declares .*\(1, 5\)"),
        (Candidate(lambda x: x - x.mean(0)), "interface", "logits change by .* with the batch"),
        (Candidate(refuse_three), "interface", "a batch of 3 is refused"),
    ],
)
def test_a_candidate_that_differs(candidate, stage, message):
    with np.errstate(invalid="ignore"), pytest.raises(VerificationError, match=message) as caught:
        verify(export_of(), candidate)
    assert caught.value.stage == stage
    assert not caught.value.report[stage]["passed"]


def test_other_weights_and_a_result_of_other_weights():
    with pytest.raises(VerificationError, match="weights: conv1 and 1 more differ"):
        verify(export_of(missing_weights=["conv1", "conv2"]), Candidate())
    for off in (0.02, -0.02):
        with pytest.raises(VerificationError, match=r"accuracy: .*result\.json"):
            verify(export_of(top1=TOP1 + off), Candidate())


def test_the_limit_grows_with_large_logits():
    """At logits of 1000, 16 units in the last place are more than 5e-5."""
    true = TRUE * np.float32(1000 / np.abs(TRUE).max())
    check = check_of(true, true * np.float32(1 + 8 * 2.0**-23))
    assert check.logits_limit == pytest.approx(1000 * 16 * 2.0**-23, rel=1e-5)
    assert np.abs(check.found.logits - true).max() < check.logits_limit


@pytest.mark.parametrize(("gap", "tie"), [(2e-5, True), (1e-2, False)])
def test_ties_may_go_either_way(gap, tie):
    """If the reference's top two classes differ by less than the limit, either is right."""
    first, second = np.argsort(-TRUE[0])[:2]
    true, found = TRUE[:1].copy(), TRUE[:1].copy()
    true[0, second] = true[0, first] - gap
    found[0, second] = true[0, first] + np.float32(2e-5)
    assert check_of(true, found, IMAGES[:1], LABELS[:1]).ties.tolist() == [tie]


@pytest.mark.parametrize(("lost", "passes"), [(1, True), (2, False)])
def test_int8_may_lose_half_a_point(lost, passes):
    """Half a point of 200 images is one of them."""
    found = TRUE.copy()
    right = np.flatnonzero(TRUE.argmax(-1) == LABELS)[:lost]
    found[right] = np.roll(found[right], 1, -1)
    numbers, complaints = accuracy(check_of(TRUE, found, precision="int8"))
    assert numbers["top1_lost"] == pytest.approx(lost / COUNT)
    assert (not complaints) is passes


def test_sampling_error():
    config = {"precision": "float32"}
    assert limits.sampling_error(0.66, 10_000, 10_000, config) == 0.0005
    assert limits.sampling_error(0.5, 1000, 10_000, config) == pytest.approx(
        4 * (0.25 / 1000 * 0.9) ** 0.5 + 0.0005
    )
