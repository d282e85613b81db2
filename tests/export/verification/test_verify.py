"""The verification's stages, on a reference and candidates whose logits are given."""

import types

import keras
import numpy as np
import pytest

from export.runtime.signatures import IMAGE, Scores, Signature
from export.verification import limits, tensors
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


def export_of(
    precision="float32",
    images=IMAGES,
    labels=LABELS,
    top1=TOP1,
    rounding=0.0,
    shape=(None, 32, 32, 3),
    logits=logits_of,
    **more,
):
    source = types.SimpleNamespace(
        class_names=NAMES,
        run=types.SimpleNamespace(top1=top1, config={"precision": "float32"}),
        tested=len(IMAGES),
        evaluate=lambda images, advance: logits(images[:]),
        true_logits=logits,
        rounding=lambda images: rounding,
        classify=types.SimpleNamespace(input_signature=[types.SimpleNamespace(shape=shape)]),
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


class UnreadableImages:
    """As `store.Images` with a picture that was deleted."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        raise InputError("0.png cannot be read")


def test_an_image_that_cannot_be_read_says_nothing_about_the_candidate():
    with pytest.raises(InputError, match=r"0\.png cannot be read"):
        verify(export_of(images=UnreadableImages()), Candidate())


def test_logits_of_zero():
    """Of a head that was not trained."""

    def zero(images):
        return np.zeros((len(images), CLASSES), np.float32)

    export = export_of(labels=None, logits=zero)
    numbers = verify(export, Candidate(lambda logits: 0 * logits))["values"]
    assert numbers["largest_relative_difference"] == 0


def refuse_three(logits):
    if len(logits) == 3:
        raise InputError("a batch of 3 is refused")
    return logits


@pytest.mark.parametrize(
    ("candidate", "stage", "message"),
    [
        (Candidate(add(8e-5)), "values", r"absolute difference is [78].*e-05, .* at most 5e-05"),
        (Candidate(lambda logits: logits[:, ::-1]), "values", "top1 agreement"),
        (Candidate(lambda logits: logits * np.float32("inf")), "interface", "nan"),
        (
            Candidate(lambda x: np.where(x.max() > x.max(-1, keepdims=True), x, np.nan)),
            "interface",
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


def test_an_int8_candidate_that_depends_on_the_batch():
    """int8 has no tolerance for logits: its logits are compared by their divergence."""

    def of_large_batches(logits):
        return logits if len(logits) > 3 else np.full_like(logits, 0.3)

    with pytest.raises(VerificationError, match="interface: an image's logits change"):
        verify(export_of("int8"), Candidate(of_large_batches))


class AnySize(Candidate):
    """A model of the mean colour, that takes images of any size; of `wrong` ones it is off."""

    def __init__(self, wrong=None):
        super().__init__()
        self.wrong = wrong

    def signatures(self):
        outputs = dict.fromkeys(Scores._fields, self.shape)
        return {IMAGE.signature: Signature({IMAGE.name: (None, None, None, 3)}, outputs)}

    def predict(self, images):
        logits = of_colour(images)
        if images.shape[1] == self.wrong:
            logits = logits[:, ::-1]
        return Scores(logits, softmax(logits))


def of_colour(images):
    return (images.astype(np.float32).mean((1, 2)) @ PROJECTION[:3]).astype(np.float32)


@pytest.mark.parametrize(("size", "other"), [(32, 64), (40, 32), (64, 32), (20, 40), (160, 96)])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_model_of_any_size_is_verified_on_another_size(size, other, precision):
    images = np.resize(IMAGES, (9, size, size, 3))
    export = export_of(
        precision, images, labels=None, shape=(None, None, None, 3), logits=of_colour
    )
    report = verify(export, AnySize())
    assert report["interface"]["images_of_another_size"] == [other, other]
    with pytest.raises(VerificationError, match=f"logits of {other}×{other} images differ"):
        verify(export, AnySize(wrong=other))


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


BOXES = np.array([600.0, 400.0, 600.0, 400.0, 0.9, 0.4, 1e-9], np.float32)  # pixels, then scores


class Detector:
    """A model with the outputs `boxes` [N, 7] and `found` [N, 7], which can be changed.

    Args:
        change: Function of `boxes` and the input `x` to `boxes`.
    """

    def __init__(self, change=lambda boxes, x: boxes):
        self.change = change

    def signatures(self):
        outputs = {"boxes": (None, 7), "found": (None, 7)}
        return {IMAGE.signature: Signature({"x": (None, 7)}, outputs)}

    def run(self, arrays):
        boxes = arrays["x"] * BOXES
        return {"boxes": self.change(boxes, arrays["x"]), "found": boxes > 1}


def verify_detector(candidate, precision, count=20):
    x = keras.Input((7,), name="x")
    boxes = keras.layers.Rescaling(list(BOXES), name="boxes")(x)
    model = keras.Model(x, {"boxes": boxes, "found": boxes > 1})
    samples = np.random.default_rng(0).normal(size=(count, 7)).astype(np.float32)
    source = tensors.of_model(model, {"x": samples}, "detector", ".")
    return verify(
        Export(source, None, b"", None, precision, source.samples, None, missing_weights=None),
        candidate,
    )


@pytest.mark.parametrize(
    ("count", "precision", "noise"),
    [(1, "float16", 1.0), (20, "float16", 0.1), (20, "float32", 1e-5)],
)
def test_columns_that_are_rounded_pass(count, precision, noise):
    """Also one that is all but 0, and few samples, which say little of a column's size."""

    def rounded(boxes, x):
        return boxes + np.float32(noise) * np.sign(x)

    numbers = verify_detector(Detector(rounded), precision, count)["values"]
    assert numbers["largest_absolute_difference"]["found"] == 0


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda boxes, x: boxes * (np.arange(7) != 4), "values: boxes differs by .* in column 4"),
        (lambda boxes, x: boxes * (np.arange(7) != 0), "values: boxes differs by .* in column 0"),
        (lambda boxes, x: boxes * np.float32("nan"), "boxes changes by nan"),
        (lambda boxes, x: boxes if len(x) > 3 else 0 * boxes, "interface: boxes changes by"),
    ],
    ids=["scores of 0", "boxes of 0", "NaN", "small batches"],
)
def test_columns_that_are_wrong(change, message, precision):
    with pytest.raises(VerificationError, match=message):
        verify_detector(Detector(change), precision)


def test_one_sample_is_repeated_in_a_batch_of_three():
    def of_one(boxes, x):
        return boxes * (np.arange(len(x)) < 1)[:, None]

    with pytest.raises(VerificationError, match=r"boxes changes by .* with the batch"):
        verify_detector(Detector(of_one), "float16", count=1)
