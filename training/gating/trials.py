"""The accuracy of a network whose gates are constants, or whose channels are removed."""

from typing import NamedTuple

import numpy as np

import keras_nam
from training.runs.scores import evaluate

SHARES = (0.1, 0.3, 0.5, 0.7)
DRAWS = 3  # of the random order


class Score(NamedTuple):
    """The score of a network, or the mean of several networks', on the same images."""

    top1: float
    loss: float  # nats
    hits: np.ndarray  # float [N], 1 for a right prediction

    @classmethod
    def of(cls, model, stream):
        scores = evaluate(model, stream)
        hits = (scores["labels"] == scores["predictions"]).astype(float)
        return cls(scores["top1"], scores["loss"], hits)

    @classmethod
    def mean(cls, scores):
        return cls(*(np.mean(values, 0) for values in zip(*scores, strict=True)))

    def compared_to(self, other):
        """Returns top-1, loss, and the paired change of top-1 with its 95% interval over images."""
        changes = self.hits - other.hits
        change, error = float(changes.mean()), 1.96 * float(changes.std()) / len(changes) ** 0.5
        return {
            "top1": float(self.top1),
            "loss": float(self.loss),
            "top1_change": change,
            "top1_change_95": [change - error, change + error],
        }


def replacements(model, means, stream, trained, advance):
    """Returns a row of `gates.json` for each constant that replaces the gates.

    Args:
        model: A `keras.Model`.
        means: Gate's name -> the means of its channels' or positions' values.
        stream: A finite stream of (normalized images, labels).
        trained: `Score` of the model.
        advance: Function that is called after each evaluation.
    """
    constants = {
        "unit mean": means,
        "layer mean": {name: values.mean() for name, values in means.items()},
        "0.5": dict.fromkeys(means, 0.5),
    }
    rows = []
    for by, values in constants.items():
        rows.append({"by": by, **replaced(model, values, stream).compared_to(trained)})
        advance()
    return rows


def replaced(model, constants, stream):
    """Returns the `Score` with each gate a constant in 0–1: name -> number or [units]."""
    folded = keras_nam.fold(model)
    for name, values in constants.items():
        gate = folded.get_layer(name)  # x * sigmoid(scale * x + offset)
        values = np.clip(np.broadcast_to(values, np.size(gate.offset)), 1e-7, 1 - 1e-7)
        gate.scale.assign(0 * gate.scale)
        gate.offset.assign(np.log(values / (1 - values)).reshape(gate.offset.shape))
    return Score.of(folded, stream)


def slimmings(model, stream, trained, advance):
    """Returns a row of `gates.json` for each share of the channels that `keras_nam.slim` removes.

    The channels are removed by |gamma|, by the L1 norms of the kernels, and at random (the mean
    over `DRAWS` draws). It takes the same arguments as `replacements`.
    """
    rows = []
    for share in SHARES:
        orders = {"gamma": ["gamma"], "l1": ["l1"], "random": map(_random, range(DRAWS))}
        scores, row = {}, {"share": share}
        for order, importances in orders.items():
            found = []
            for by in importances:
                slimmed = keras_nam.slim(model, share, by)
                found.append(Score.of(slimmed, stream))
                advance()
            scores[order] = Score.mean(found)
            row |= {"parameters": slimmed.count_params(), order: scores[order].compared_to(trained)}
        for other in ("random", "l1"):
            row[f"gamma_against_{other}"] = scores["gamma"].compared_to(scores[other])
        rows.append(row)
    return rows


def _random(seed):
    """Returns a random importance of channels for `keras_nam.slim`."""
    rng = np.random.default_rng(seed)
    return lambda layer, normalization: rng.random(normalization.gamma.shape)
