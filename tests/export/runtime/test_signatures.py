"""What counts as a model of this project, and as scores."""

import numpy as np
import pytest

from export.runtime.signatures import (
    IMAGE,
    IMAGE_BYTES,
    Signature,
    image_size,
    scores,
)
from training.cli import InputError

OUTPUTS = {"logits": (None, 100), "probabilities": (None, 100)}
ANSWER = {"logits": [[1.5, -2.0]], "probabilities": [[0.97, 0.03]]}

# Inputs, outputs -> the size of an image
GOOD = [
    ({"image": (None, 32, 32, 3)}, OUTPUTS, (32, 32)),
    ({"image": (1, 224, 192, 3)}, OUTPUTS, (224, 192)),
    ({"image": (None, None, None, 3)}, OUTPUTS, (224, 224)),
    ({"image": None}, OUTPUTS, (224, 224)),
    ({"image": (None, 32, 32, 3)}, {**OUTPUTS, "features": (None, 9)}, (32, 32)),
]
BAD = [
    Signature({"image": (None, 3, 32, 32)}, OUTPUTS),
    Signature({"image": (None, 3072)}, OUTPUTS),
    Signature({"pixels": (None, 32, 32, 3)}, OUTPUTS),
    Signature({"image": (None, 32, 32, 3), "mask": (None, 32, 32)}, OUTPUTS),
    Signature({"image": (None, 32, 32, 3)}, {"probabilities": (None, 100)}),
    Signature({"image": (None, 32, 32, 3)}, {**OUTPUTS, "logits": (None, 4, 100)}),
]


@pytest.mark.parametrize(("inputs", "outputs", "size"), GOOD)
def test_a_model_that_fits(inputs, outputs, size):
    signatures = {"serving_default": Signature(inputs, outputs)}
    assert image_size(signatures, IMAGE, "m") == size
    with pytest.raises(InputError, match=r"no signature serving_bytes \(it has: serving_default\)"):
        image_size(signatures, IMAGE_BYTES, "m")


@pytest.mark.parametrize("signature", BAD)
def test_a_model_that_does_not_fit_is_described(signature):
    with pytest.raises(InputError, match=r"m is another kind of model: .*expected") as caught:
        image_size({"serving_default": signature}, IMAGE, "m")
    for name, shape in (*signature.inputs.items(), *signature.outputs.items()):
        text = ",".join("N" if length is None else str(length) for length in shape)
        assert f"{name} [{text}]" in str(caught.value)


def test_scores():
    found = scores(ANSWER, 1, "m")
    assert found.logits.dtype == found.probabilities.dtype == np.float32
    np.testing.assert_array_equal(found.probabilities, np.float32([[0.97, 0.03]]))
    with pytest.raises(InputError, match="for 2 pictures"):
        scores(ANSWER, 2, "m")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "nothing, without 'logits'"),
        ({"logits": [[1]], "scores": [[1]]}, "logits, scores, without 'probabilities'"),
        ({**ANSWER, "logits": [[1.5]]}, r"shape \(1, 1\) and probabilities of .* \(1, 2\)"),
        ({**ANSWER, "logits": [1.5, -2.0]}, r"logits of shape \(2,\)"),
        ({**ANSWER, "logits": [[1.5, -2.0], [1.0]]}, "not tables of numbers"),
        ({**ANSWER, "logits": [["cat", "dog"]]}, "not tables of numbers"),
    ],
)
def test_outputs_that_are_not_scores(answer, message):
    with pytest.raises(InputError, match=f"^m .*{message}"):
        scores(answer, 1, "m")
