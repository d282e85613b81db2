"""Finds a model's weights in a checkpoint, and names its other contents."""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from keras_nam.weights import safe_pickle
from keras_nam.weights.formats import bfloat16

# Where trainers keep the weights. The first that fits is taken before any other name.
WRAPPERS = ("", "state_dict", "model_state_dict", "model", "net", "module", "params")
# Averaged weights are taken where nothing else fits, or on request.
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|average|averaged|shadow|teacher)(?:[._]|$)", re.I)
# Counters of PyTorch, thop, AveragedModel and Keras' random layers.
COUNTERS = re.compile(
    r"(?:.*[./])?(?:num_batches_tracked|total_ops|total_params|n_averaged|seed_generator/\d+)"
)
# Paddle's table of names, in every file of a state dict.
PADDLE_TABLE = "StructuredToParameterName@@"
# weiaicunzai's networks have no name for NAM: the author who adds it chooses one.
NAM_MODULE = re.compile(
    r"(?<![^.])(?P<block>layer\d\.\d+|conv\d_x\.\d+|stage\d(?:\.\d+)?)(?:\.\w+)*"
    r"\.(?P<rest>(?:Channel|Spatial)_Att\.[\w.]+)$"
)
LONGEST = 500  # characters of a key; NAM_MODULE takes a time that is quadratic in it
DEEPEST = 4  # levels of dictionaries; a pickled one may hold itself
MOST_PARTS = 12  # of a key, between its dots


class Selection(NamedTuple):
    """The weights that were found in a checkpoint.

    Attributes:
        name: String, their keys and prefix, such as `"state_dict.module"`, or `""`.
        format: String, the format of their names.
        arrays: Dictionary of the arrays, without that prefix.
        ignored: List of the names of other contents.
        others: List of the names of other weights that would fit.
    """

    name: str
    format: str
    arrays: dict
    ignored: list
    others: list


class _Candidate(NamedTuple):
    container: str
    prefix: str
    format: str
    keys: int  # how many keys of the model it has
    shapes: int  # how many of them have the model's shapes

    @property
    def name(self):
        return _join(self.container, self.prefix)

    @property
    def root(self):
        return self.container.partition(".")[0]

    @property
    def order(self):
        """Not averaged first, then the most keys, then the usual names of weights."""
        rank = WRAPPERS.index(self.root) if self.root in WRAPPERS else len(WRAPPERS)
        return (bool(AVERAGED.search(self.name)), -self.keys, -self.shapes, rank)


def select(entries_by_format, contents, weights=None):
    """Returns the `Selection` of the weights of a model.

    Args:
        entries_by_format: Dictionary, format name -> list of the model's entries in it.
        contents: Dictionary of arrays, or of dictionaries that hold them.
        weights: String, the name of the weights to take where there are several.

    Raises:
        ValueError: If there is no array, no weights of that name, or several sets of weights fit
            equally and none was named.
    """
    containers = dict(_containers(contents))
    if not containers:
        is_dict = isinstance(contents, dict)
        received = (
            [str(key)[:80] for key in list(contents)[:3]] if is_dict else type(contents).__name__
        )
        raise ValueError(f"No dictionary of arrays in the checkpoint. Received: {received}")
    candidates = []
    for container, arrays in containers.items():
        for format, entries in entries_by_format.items():
            candidates += _candidates(container, arrays, format, entries)
    if weights is not None:
        named = [c for c in candidates if f"{c.name}.".startswith(f"{weights}.")]
        if not named:
            names = _list_names(_most_alike(candidates))
            raise ValueError(f"There are no weights {weights!r}. {names}")
        candidates = named
    if not candidates:  # the caller reports the keys that the largest part lacks
        largest = max(containers, key=lambda name: len(containers[name]))
        candidates = [_Candidate(largest, "", next(iter(entries_by_format)), 0, 0)]
    best = {}  # of each name, the format that fits best
    for candidate in sorted(_most_alike(candidates), key=lambda c: c.order):
        best.setdefault(candidate.name, candidate)
    taken, *others = best.values()
    if others and others[0].order == taken.order:
        raise ValueError(f"Several sets of weights fit equally. {_list_names(best.values())}")
    known = {entry.key for entry in entries_by_format[taken.format]}
    arrays, ignored = _split(containers[taken.container], taken, known, weights is not None)
    for key, value in contents.items():
        beside = str(key) != taken.root if taken.root else _array_of(value) is None
        if beside and key != PADDLE_TABLE:
            ignored.append(str(key)[:80])
    ignored = [name for name in ignored if not name.endswith("num_batches_tracked")]
    return Selection(taken.name, taken.format, arrays, ignored, [other.name for other in others])


def _split(container, taken, known, is_named):
    """Returns the arrays under the prefix that was taken, and the other keys."""
    arrays, beside, counters = {}, {}, []
    start = taken.prefix + "." if taken.prefix else ""
    for key, array in container.items():
        name = key.removeprefix(start)
        if name not in known and (COUNTERS.fullmatch(key) or not array.shape):
            counters.append(key)
        elif key.startswith(start):
            arrays[name] = array
        else:
            beside[key] = array
    if is_named or len(beside) <= len(arrays):
        return arrays, [*beside, *counters]
    # A small part of another network, which fits by chance: the rest is unexpected.
    return {**beside, **arrays}, counters


def _containers(contents):
    """Yields the names and the arrays of the dictionaries that hold arrays."""
    queue = [("", contents)] if isinstance(contents, dict) else []
    seen = {id(contents)}
    for name, mapping in queue:
        arrays = {}
        for key, value in mapping.items():
            key = str(key[:LONGEST] if isinstance(key, str | bytes) else key)
            array = _array_of(value)
            if array is not None:
                renamed = NAM_MODULE.sub(r"\g<block>.nam.\g<rest>", key)
                # Where two keys take one name, both are kept and one is reported as unexpected.
                arrays[key if renamed in arrays else renamed] = array
            elif isinstance(value, dict) and id(value) not in seen and name.count(".") < DEEPEST:
                seen.add(id(value))
                queue.append((_join(name, key[:80]), value))
        if arrays:
            yield name, arrays


def _array_of(value):
    """Returns a value's array or tensor, or `None`."""
    if isinstance(value, tuple) and len(value) == 2:  # Paddle's name and array
        value = value[1]
    if isinstance(value, safe_pickle.Array):
        if value.values is not None and value.values.dtype == np.uint16:  # Paddle's bfloat16
            value.values = bfloat16(value.values)  # once, for all references
        value = value.values
    is_nested = getattr(value, "is_nested", False)  # PyTorch's, which has no shape
    return value if not is_nested and hasattr(value, "shape") and hasattr(value, "dtype") else None


def _candidates(container, arrays, format, entries):
    """Yields a candidate for each prefix that stands before keys of the model."""
    expected = {entry.key: entry.shape for entry in entries}
    keys, shapes = Counter(), Counter()
    for key, array in arrays.items():
        parts = key.rsplit(".", MOST_PARTS)
        for count in range(len(parts)):
            rest = ".".join(parts[count:])
            if rest in expected:
                prefix = ".".join(parts[:count])
                keys[prefix] += 1
                shapes[prefix] += expected[rest] == tuple(array.shape)
    for prefix in keys:
        yield _Candidate(container, prefix, format, keys[prefix], shapes[prefix])


def _most_alike(candidates):
    """Returns the candidates with at least half as many of the model's keys as the best has."""
    most = max((candidate.keys for candidate in candidates), default=0)
    return [candidate for candidate in candidates if 2 * candidate.keys >= most]


def _join(*names):
    return ".".join(name for name in names if name)


def _list_names(candidates):
    names = sorted({candidate.name for candidate in candidates})[:8]
    return f"Choose one with weights= or --weights: {', '.join(map(repr, names))}"
