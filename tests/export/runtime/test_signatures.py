"""What counts as a model of this project, and as an answer of one."""

import numpy as np
import pytest

from export.runtime.signatures import IMAGE, IMAGE_BYTES, Signature, check, input_of, scores
from training.cli import InputError

OUTPUTS = {"logits": (None, 100), "probabilities": (None, 100)}
ANSWER = {"logits": [[1.5, -2.0]], "probabilities": [[0.97, 0.03]]}

GOOD = {
    "exported": Signature({"image": (None, 32, 32, 3)}, OUTPUTS),
    "fixed batch": Signature({"image": (1, 32, 32, 3)}, OUTPUTS),
    "any size": Signature({"image": (None, None, None, 3)}, OUTPUTS),
    "any rank": Signature({"image": None}, OUTPUTS),
    "more outputs": Signature({"image": (None, 32, 32, 3)}, {**OUTPUTS, "features": (None, 9)}),
}
BAD = {
    "another size": Signature({"image": (None, 224, 224, 3)}, OUTPUTS),
    "channels first": Signature({"image": (None, 3, 32, 32)}, OUTPUTS),
    "flat": Signature({"image": (None, 3072)}, OUTPUTS),
    "another input": Signature({"pixels": (None, 32, 32, 3)}, OUTPUTS),
    "two inputs": Signature({"image": (None, 32, 32, 3), "mask": (None, 32, 32)}, OUTPUTS),
    "no logits": Signature({"image": (None, 32, 32, 3)}, {"probabilities": (None, 100)}),
    "a box": Signature({"image": (None, 32, 32, 3)}, {**OUTPUTS, "logits": (None, 4, 100)}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_model_that_fits(kind):
    check({"serving_default": GOOD[kind]}, IMAGE, "m")


@pytest.mark.parametrize("kind", BAD)
def test_model_that_does_not_fit_is_described(kind):
    with pytest.raises(InputError, match=r"m is another kind of model: .* is expected") as caught:
        check({"serving_default": BAD[kind]}, IMAGE, "m")
    for name, shape in (*BAD[kind].inputs.items(), *BAD[kind].outputs.items()):
        text = ",".join("N" if length is None else str(length) for length in shape)
        assert f"{name} [{text}]" in str(caught.value)


def test_missing_signature_lists_the_others():
    with pytest.raises(InputError, match=r"no signature serving_bytes \(it has: serving_default\)"):
        check({"serving_default": GOOD["exported"]}, IMAGE_BYTES, "m")


def test_input_of():
    assert input_of([b"png"]) is IMAGE_BYTES
    assert input_of(np.zeros((1, 32, 32, 3))) is IMAGE
    assert input_of(np.zeros((0, 32, 32, 3))) is IMAGE


def test_scores():
    found = scores(ANSWER, 1, "m")
    assert found.logits.dtype == found.probabilities.dtype == np.float32
    np.testing.assert_array_equal(found.probabilities, np.float32([[0.97, 0.03]]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "answers nothing, without 'logits'"),
        ({"logits": [[1]], "scores": [[1]]}, "answers logits, scores, without 'probabilities'"),
        (
            {**ANSWER, "logits": [[1.5]]},
            r"logits of shape \(1, 1\) and probabilities of .* \(1, 2\)",
        ),
        ({**ANSWER, "logits": [1.5, -2.0]}, r"logits of shape \(2,\)"),
        ({**ANSWER, "logits": [[1.5, -2.0], [1.0]]}, "no tables of numbers"),
        ({**ANSWER, "logits": [["cat", "dog"]]}, "no tables of numbers"),
        ({**ANSWER, "logits": {"a": 1}}, "no tables of numbers"),
    ],
)
def test_scores_that_are_none(answer, message):
    with pytest.raises(InputError, match=f"^m .*{message}"):
        scores(answer, 1, "m")


def test_scores_need_a_row_for_each_picture():
    with pytest.raises(InputError, match="for 2 pictures"):
        scores(ANSWER, 2, "m")
