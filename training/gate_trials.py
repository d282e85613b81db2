"""What a network loses when its gates are replaced by constants, or closed for some channels.

The trials run on the folded network, whose gates are `x * sigmoid(scale * x + offset)`: a constant
gate has the scale 0, and a closed one an offset whose sigmoid is 0.
"""

import dataclasses
import math

import numpy as np

import keras_nam
from training import gate_values
from training.evaluation import evaluate

SHARES = (0.1, 0.3, 0.5)
DRAWS = 3
CLOSED = -1e4  # float32's sigmoid of it is 0
Z_95 = 1.96  # of the normal distribution


@dataclasses.dataclass(frozen=True)
class Score:
    """The answers of a network, or the mean of several networks', on the same images.

    Attributes:
        top1: Share, 0–1.
        loss: Cross-entropy, nats.
        hits: Float [N], 1 where the answer is right.
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

    def minus(self, other):
        """Returns the change of top-1 from another score, (change, low, high) at 95%.

        The interval is paired, and over images like these; the draws behind a mean are as given.
        """
        changes = self.hits - other.hits
        error = Z_95 * float(changes.std()) / math.sqrt(len(changes))
        change = float(changes.mean())
        return change, change - error, change + error


class Trials:
    """A copy of a network whose gates can be set.

    Args:
        model: A functional `keras.Model` with gates; it is not changed.
        stream: A finite `tf.data.Dataset` of (normalized images, labels).
    """

    def __init__(self, model, stream):
        self.named = gate_values.named_gates(model)
        self.stream = stream
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
            masks: Dictionary name -> Boolean [units], the units that are closed. Gates that it
                does not name stay as trained.
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
        return Score.of(self.folded, self.stream)


def replacements(trials, constants):
    """Yields (what each gate is replaced by, score).

    Args:
        trials: `Trials`.
        constants: Dictionary name -> the units' means, [units], over other images.
    """
    yield "unit mean", trials.replaced(constants)
    yield "layer mean", trials.replaced({name: means.mean() for name, means in constants.items()})
    yield "0.5", trials.replaced(dict.fromkeys(constants, 0.5))


def prunings(trials):
    """Yields (units, share, order -> score) for units closed by the size of their gammas.

    The orders are `"smallest"`, `"random"`, a mean over `DRAWS` draws, and `"largest"`. The same
    share is closed in each gate that has these units.
    """
    for kind, names in gate_kinds(trials.named).items():
        sizes = {name: np.abs(np.array(trials.named[name].gamma)) for name in names}
        opposite = {name: -size for name, size in sizes.items()}
        draws = [
            {name: rng.random(size.size) for name, size in sizes.items()}
            for rng in map(np.random.default_rng, range(DRAWS))
        ]
        for share in SHARES:
            by_chance = [trials.closed(lowest(draw, share)) for draw in draws]
            yield (
                kind,
                share,
                {
                    "smallest": trials.closed(lowest(sizes, share)),
                    "random": Score.mean(by_chance),
                    "largest": trials.closed(lowest(opposite, share)),
                },
            )


def lowest(keys, share):
    """Returns name -> a mask of the share of units with the lowest keys [units]."""
    masks = {}
    for name, key in keys.items():
        masks[name] = np.zeros(key.size, bool)
        masks[name][np.argsort(key, kind="stable")[: round(share * key.size)]] = True
    return masks


def gate_kinds(named):
    """Returns units -> the names of the gates that have these."""
    kinds = {}
    for name, gate in named.items():
        kinds.setdefault(gate_values.units(gate), []).append(name)
    return kinds


def steps(named):
    """Returns how many scores `replacements` and `prunings` give."""
    return 3 + len(SHARES) * len(gate_kinds(named))
