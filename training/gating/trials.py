"""The accuracy of a network whose gates are replaced by constants, or closed for some units.

The trials run on the folded network, whose gates are `x * sigmoid(scale * x + offset)`. A constant
gate has the scale 0, and a closed one an offset whose sigmoid is 0.
"""

from typing import NamedTuple

import numpy as np

import keras_nam
from training.gating.values import named_gates, units
from training.runs.scores import evaluate

SHARES = (0.1, 0.3, 0.5)
DRAWS = 3  # of the random order
CLOSED = -1e4  # float32's sigmoid of it is 0


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


class Trials:
    """A copy of a model whose gates can be set, and a stream that it is evaluated on."""

    def __init__(self, model, stream, advance=lambda: None):
        self.named = named_gates(model)
        # Of `replacements` and `prunings`; each trial calls `advance`.
        self.count = 3 + len(set(map(units, self.named.values()))) * len(SHARES) * (2 + DRAWS)
        self.stream = stream
        self.advance = advance
        self.folded = keras_nam.fold(model)
        self.gates = {name: self.folded.get_layer(name) for name in self.named}
        self.trained = {
            name: (np.array(gate.scale), np.array(gate.offset)) for name, gate in self.gates.items()
        }

    def replaced(self, constants):
        """Returns the score with each gate a constant in 0–1: name -> number or [units]."""
        settings = {}
        for name, (scale, _) in self.trained.items():
            values = np.clip(np.broadcast_to(constants[name], scale.size), 1e-7, 1 - 1e-7)
            settings[name] = (0 * scale, np.log(values / (1 - values)).reshape(scale.shape))
        return self._score(settings)

    def closed(self, masks):
        """Returns the score with the outputs of some units 0: name -> Boolean [units]."""
        closed = {}
        for name, mask in masks.items():
            scale, offset = self.trained[name]
            mask = mask.reshape(scale.shape)
            closed[name] = (np.where(mask, 0, scale), np.where(mask, CLOSED, offset))
        return self._score(self.trained | closed)

    def _score(self, settings):
        for name, (scale, offset) in settings.items():
            self.gates[name].scale.assign(scale)
            self.gates[name].offset.assign(offset)
        score = Score.of(self.folded, self.stream)
        self.advance()
        return score


def replacements(trials, means, trained):
    """Returns a row of `gates.json` for each constant; `means` is name -> the units' means."""
    constants = {
        "unit mean": means,
        "layer mean": {name: values.mean() for name, values in means.items()},
        "0.5": dict.fromkeys(means, 0.5),
    }
    scores = {by: trials.replaced(values) for by, values in constants.items()}
    return [{"by": by, **score.compared_to(trained)} for by, score in scores.items()]


def prunings(trials, trained):
    """Returns a row of `gates.json` for each kind of unit and share of them that is closed.

    The same share is closed in each gate: the units of the smallest gammas, random ones (the mean
    over `DRAWS` draws), and the units of the largest gammas.
    """
    rows = []
    for kind in dict.fromkeys(map(units, trials.named.values())):
        gates = {name: gate for name, gate in trials.named.items() if units(gate) == kind}
        sizes = {name: np.abs(np.array(gate.gamma)) for name, gate in gates.items()}
        generators = map(np.random.default_rng, range(DRAWS))
        orders = {
            "smallest": [sizes],
            "random": [{n: rng.random(s.size) for n, s in sizes.items()} for rng in generators],
            "largest": [{name: -size for name, size in sizes.items()}],
        }
        for share in SHARES:
            scores = {
                order: Score.mean([trials.closed(_lowest(each, share)) for each in keys])
                for order, keys in orders.items()
            }
            row = {"units": kind, "share": share}
            row |= {order: score.compared_to(trained) for order, score in scores.items()}
            for order in ("smallest", "largest"):
                row[f"{order}_against_random"] = scores[order].compared_to(scores["random"])
            rows.append(row)
    return rows


def _lowest(keys, share):
    """Returns name -> a mask of the share of units with the lowest keys [units]."""
    ranks = {name: key.argsort(kind="stable").argsort() for name, key in keys.items()}
    return {name: rank < round(share * rank.size) for name, rank in ranks.items()}
