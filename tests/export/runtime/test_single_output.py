"""Whether the one output of a classifier is logits or probabilities."""

import numpy as np
import pytest

from export.runtime.local_models import classifier_signature
from export.runtime.single_output import SEVERAL_LABELS, SeveralLabelsError, kind_of
from training.cli import InputError

# Rows, what is stated of them -> what they are
KINDS = [
    ([[2.0, -1.0]], None, "logits"),
    ([[0.2, 0.8], [0.3, 0.7]], None, "probabilities"),
    ([[0.2, 0.8004]], None, "probabilities"),  # computed in float16
    ([[0.2, 0.8], [np.nan, np.nan]], None, "probabilities"),
    ([[0.4], [-3.0]], None, "logits"),
    ([[0.4], [0.9]], "logits", "logits"),
    ([[0.4], [0.9]], "probabilities", "probabilities"),
]
UNCERTAIN = [
    ([[0.02], [0.97]], None, "0 to 1, which may be logits or the probability of a class"),
    ([[0.9, 0.8, 0.1]], None, "sum is not 1, which may be logits or .* several labels"),
    ([[0.4], [-3.0]], "probabilities", "-3 to 0.4: expected probabilities"),
    ([0.4, 0.9], None, r"shape \(2,\)"),
]


@pytest.mark.parametrize(("rows", "stated", "kind"), KINDS)
def test_logits_or_probabilities(rows, stated, kind):
    assert kind_of(rows, "m", stated) == kind


@pytest.mark.parametrize(("rows", "stated", "message"), UNCERTAIN)
def test_what_may_be_either_must_be_stated(rows, stated, message):
    with pytest.raises(InputError, match=f"^m returns .*{message}"):
        kind_of(rows, "m", stated)


@pytest.mark.parametrize(
    ("rows", "stated"),
    [([[0.9, 0.8, 0.1]], "probabilities"), ([[1.0, 0.0, 0.0]], SEVERAL_LABELS)],
)
def test_several_labels(rows, stated):
    with pytest.raises(SeveralLabelsError, match="each of 3 labels"):
        kind_of(rows, "m", stated)


def test_an_output_without_a_declared_shape():
    """ONNX Runtime gives () for it."""
    (signature,) = classifier_signature((None, 8, 8, 3), ()).values()
    assert set(signature.outputs.values()) == {(None, None)}
