"""The accuracy of a network whose gates are replaced by constants, or closed for some units.

The trials run on the folded network, whose gates are `x * sigmoid(scale * x + offset)`: a constant
gate has the scale 0, and a closed one an offset whose sigmoid is 0.
"""

import dataclasses
import math

import numpy as np

import keras_nam
from training.gating import values as gate_values
from training.runs.scores import evaluate

SHARES = (0.1, 0.3, 0.5)
DRAWS = 3  # of the random order
CLOSED = -1e4  # float32's sigmoid of it is 0
Z_95 = 1.96  # of the normal distribution


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a network, or the mean of several networks', on the same images.

    Attributes:
        top1: Share, 0–1.
        loss: Cross-entropy, nats.
        hits: Float [N], 1 for a right prediction.
    """

    top1: float
    loss: float
    hits: np.ndarray

    @classmethod
    def of(cls, model, stream):
        """Evaluates a model."""
        scores = evaluate(model, stream)
        hits = (scores["labels"] == scores["predictions"]).astype(float)
        return cls(scores["top1"], scores["loss"], hits)

    @classmethod
    def mean(cls, scores):
        """Returns the mean of some scores."""
        fields = dataclasses.fields(cls)
        return cls(
            *(np.mean([getattr(score, field.name) for score in scores], 0) for field in fields)
        )

    def compared_to(self, other):
        """Returns the numbers of `gates.json`: top-1, loss, and the change of top-1 from `other`.

        The 95% interval is paired, and over images like these; the draws behind a mean are fixed.
        """
        changes = self.hits - other.hits
        error = Z_95 * float(changes.std()) / math.sqrt(len(changes))
        change = float(changes.mean())
        return {
            "top1": float(self.top1),
            "loss": float(self.loss),
            "top1_change": change,
            "top1_change_95": [change - error, change + error],
        }


class Trials:
    """A copy of a network whose gates can be set.

    Args:
        model: A functional `keras.Model` with gates; it is not changed.
        stream: A finite `tf.data.Dataset` of (normalized images, labels).
        advance: Function, called after each of `count` trials.
    """

    def __init__(self, model, stream, advance=lambda: None):
        self.named = gate_values.named_gates(model)
        self.stream = stream
        self.advance = advance
        self.folded = keras_nam.fold(model)
        self.trained = {}
        for name in self.named:
            layer = self.folded.get_layer(name)
            self.trained[name] = (np.array(layer.scale), np.array(layer.offset))

    def replaced(self, constants):
        """Returns the score with each gate a constant.

        Args:
            constants: Dictionary name -> values in 0–1, [units] or a number.
        """
        settings = {}
        for name, (scale, _) in self.trained.items():
            values = np.clip(np.broadcast_to(constants[name], scale.size), 1e-7, 1 - 1e-7)
            settings[name] = (0 * scale, np.log(values / (1 - values)).reshape(scale.shape))
        return self._score(settings)

    def closed(self, masks):
        """Returns the score with the outputs of some units 0.

        Args:
            masks: Dictionary name -> Boolean [units], the units that are closed. The other gates
                stay as trained.
        """
        settings = dict(self.trained)
        for name, mask in masks.items():
            scale, offset = self.trained[name]
            mask = mask.reshape(scale.shape)
            settings[name] = (np.where(mask, 0, scale), np.where(mask, CLOSED, offset))
        return self._score(settings)

    def _score(self, settings):
        for name, (scale, offset) in settings.items():
            layer = self.folded.get_layer(name)
            layer.scale.assign(scale)
            layer.offset.assign(offset)
        score = Score.of(self.folded, self.stream)
        self.advance()
        return score


def count(model):
    """Returns the number of trials of `replacements` and `prunings`."""
    kinds = {gate_values.units(gate) for gate in gate_values.gates(model)}
    return 3 + len(kinds) * len(SHARES) * (2 + DRAWS)


def replacements(trials, means, trained):
    """Returns a row of `gates.json` for each constant that the gates are replaced by.

    Args:
        trials: `Trials`.
        means: Dictionary name -> the units' means, [units], over other images.
        trained: The network's `Score`.
    """
    constants = {
        "unit mean": means,
        "layer mean": {name: values.mean() for name, values in means.items()},
        "0.5": dict.fromkeys(means, 0.5),
    }
    return [
        {"by": by, **trials.replaced(values).compared_to(trained)}
        for by, values in constants.items()
    ]


def prunings(trials, trained):
    """Returns a row of `gates.json` for each kind of unit and share of them that is closed.

    The same share is closed in each gate that has these units: those of the smallest gammas, random
    ones (the mean over `DRAWS` draws), and those of the largest gammas.
    """
    rows = []
    for kind in dict.fromkeys(map(gate_values.units, trials.named.values())):
        sizes = {
            name: np.abs(np.array(gate.gamma))
            for name, gate in trials.named.items()
            if gate_values.units(gate) == kind
        }
        orders = {
            "smallest": [sizes],
            "random": [
                {name: rng.random(size.size) for name, size in sizes.items()}
                for rng in map(np.random.default_rng, range(DRAWS))
            ],
            "largest": [{name: -size for name, size in sizes.items()}],
        }
        for share in SHARES:
            scores = {
                order: Score.mean([trials.closed(_lowest(each, share)) for each in keys])
                for order, keys in orders.items()
            }
            rows.append(
                {
                    "units": kind,
                    "share": share,
                    **{order: score.compared_to(trained) for order, score in scores.items()},
                    **{
                        f"{order}_against_random": scores[order].compared_to(scores["random"])
                        for order in ("smallest", "largest")
                    },
                }
            )
    return rows


def _lowest(keys, share):
    """Returns name -> a mask of the share of units with the lowest keys [units]."""
    masks = {}
    for name, key in keys.items():
        masks[name] = np.zeros(key.size, bool)
        masks[name][np.argsort(key, kind="stable")[: round(share * key.size)]] = True
    return masks
