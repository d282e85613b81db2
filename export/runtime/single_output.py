"""The one output of a classifier: whether it is logits or probabilities, and both from it."""

import numpy as np

from training.cli import InputError

SCORES = ("logits", "probabilities")  # what one output of a classifier can be
SEVERAL_LABELS = "labels"  # or this: a sigmoid for each
STATE_SCORES = "State which with --scores logits or --scores probabilities (in Python: scores=)"
LEAST_PROBABILITY = 1e-37  # the logarithm of 0 is not finite
ROUNDING = 1e-3  # of probabilities that were computed in float16, and of their sum


class SeveralLabelsError(InputError):
    """The outputs of a model are a sigmoid for each of several labels, not scores of one class."""


def kind_of(rows, source, known=None, advice=STATE_SCORES):
    """Returns what the one output of a classifier is: one of `SCORES`.

    Numbers below 0 or above 1 are logits. Rows of 0 to 1 with the sum 1 are probabilities. Others
    of 0 to 1 may be logits, a sigmoid for the second of two classes, or one for each label.

    Args:
        rows: Array [N, classes].
        source: Name of the model, for the message.
        known: One of `SCORES` or `SEVERAL_LABELS`, if it is stated; `None` to find it out.
        advice: What to do if it cannot be found out, for the message.

    Raises:
        SeveralLabelsError: If more than one class can be true of an image.
        InputError: If it cannot be found out, or the numbers are not what is stated.
    """
    if known == "logits":
        return known
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2:
        raise InputError(f"{source} returns an array of shape {rows.shape}: expected [N, classes]")
    rows = rows[np.isfinite(rows).all(-1)]
    in_range = bool(np.all(np.abs(rows - 0.5) <= 0.5 + ROUNDING))
    columns = rows.shape[-1]
    if known == "probabilities" and not in_range:
        raise InputError(
            f"{source} returns numbers of {rows.min():.3g} to {rows.max():.3g}: expected "
            "probabilities, as stated. Numbers below 0 or above 1 are logits."
        )
    if known is None and not in_range:
        return "logits"
    if known != SEVERAL_LABELS and columns > 1 and np.allclose(rows.sum(-1), 1, atol=ROUNDING):
        return "probabilities"
    if known is None:
        other = "probabilities of several labels" if columns > 1 else "the probability of a class"
        raise InputError(
            f"{source} returns numbers of 0 to 1{' whose sum is not 1' if columns > 1 else ''}, "
            f"which may be logits or {other}. {advice}"
        )
    if columns > 1:
        raise SeveralLabelsError(
            f"{source} returns a probability for each of {columns} labels, whose sum is not 1: "
            "expected a classifier of one class an image. Give another model."
        )
    return known


def scores_of(rows, kind):
    """Returns the outputs of a classifier by name, of its one output.

    One column is the second of two classes.

    Args:
        rows: Array [N, classes].
        kind: One of `SCORES`, which the output is.
    """
    rows = np.asarray(rows, np.float64)
    are_logits = kind == "logits"
    if rows.shape[-1] == 1:
        rows = np.concatenate([0 * rows if are_logits else 1 - rows, rows], -1)
    logits = rows if are_logits else np.log(np.maximum(rows, LEAST_PROBABILITY))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return {
        "logits": logits,
        "probabilities": exponentials / exponentials.sum(-1, keepdims=True),
    }


def last_activation(model):
    """Returns what a Keras graph's last layer makes of its outputs, that layer, and its input.

    The first is one of `SCORES` or `SEVERAL_LABELS`. Returns `None` without a graph, or if the
    last layer is not a softmax, a sigmoid or a linear dense layer of Keras.
    """
    import keras

    dense = keras.layers.Dense
    is_graph = isinstance(model, keras.Function | keras.Sequential)
    outputs = getattr(model, "outputs", []) if is_graph else []
    if len(outputs) != 1:
        return None
    layer, index, _ = outputs[0]._keras_history
    # An own layer may do more after its activation.
    activation = layer.activation if type(layer) in (dense, keras.layers.Activation) else None
    if type(layer) is keras.layers.Softmax:
        activation = keras.activations.softmax
    if activation is keras.activations.sigmoid and outputs[0].shape[-1] != 1:
        kind = SEVERAL_LABELS
    elif activation in (keras.activations.softmax, keras.activations.sigmoid):
        kind = "probabilities"
    elif activation is keras.activations.linear and type(layer) is dense:
        kind = "logits"
    else:
        return None
    return kind, layer, layer._inbound_nodes[index].input_tensors[0]
