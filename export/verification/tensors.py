"""Models that are not image classifiers: their exports are verified by names, shapes and values."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from export.runtime.native_log import one_line
from export.runtime.preprocessing import UNCHANGED
from export.runtime.signatures import IMAGE, Samples, Signature, fits
from export.verification import keras_models
from export.verification.limits import EPSILON
from training.cli import InputError

MOST = 1000  # samples of pictures, which are all held in memory
BATCHES = (1, 3)
# Of the precision's epsilon: what may differ, of an output's and of a column's largest value.
OF_OUTPUT, OF_COLUMN = 32, 256
FLOOR = 2.0**-10  # of the output's largest value, which a column's counts as at least
ROWS = 8  # values in a column, from which its largest is compared with the other columns'


class RejectedError(Exception):
    """A candidate rejects its inputs."""


@dataclass(frozen=True)
class TensorSource:
    """A Keras model with any inputs and outputs, which an export keeps with their names.

    Attributes:
        name: Of its file.
        folder: Path of the folder for its exports.
        classify: `tf.function` of a model for inference, which the exporters convert.
        model: The reference, a float32 Keras model.
        samples: The `Samples` that the values are verified on.
        remarks: List of sentences that a user must know.
    """

    name: str
    folder: Path
    classify: Callable
    model: keras.Model
    samples: Samples
    remarks: list
    truth: str = keras_models.TRUTH
    data_name: str = "the given inputs"
    run = class_names = saved_model = None
    normalize = UNCHANGED
    identity = {}  # noqa: RUF012 - never changed

    @property
    def notes(self):
        """List of sentences that a user must know."""
        return [*self.remarks, "The model is not an image classifier: accuracy is not checked."]

    def evaluate(self, samples):
        """Returns the reference's outputs: name -> array."""
        return _joined(lambda arrays: keras_models.call(self.model, arrays), samples)

    def rounding(self, samples):
        """Returns output name -> largest difference of the first samples from float64."""
        exact = keras_models.rebuilt(self.model, ["float32"], "float64")
        wide = {
            name: array.astype("float64") if array.dtype == np.float32 else array
            for name, array in samples[:64].arrays.items()
        }
        found = _joined(lambda arrays: keras_models.call(exact, arrays), Samples(wide))
        true = self.evaluate(samples[:64])
        return {name: _largest(true[name] - found[name]) for name in true}


def read(path):
    """Returns the arrays of an `.npz` file by name."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"--inputs {path}: expected an .npz file with an array for each input "
            f"({one_line(error)})"
        ) from None


def refuse_of_classifiers(name, given):
    """Raises an InputError for what only an image classifier has.

    Args:
        name: Of the model.
        given: Dictionary, what it is to whether it was given.
    """
    if found := [what for what, was_given in given.items() if was_given]:
        raise InputError(
            f"{name}: received {', '.join(found)}, which only an image classifier has: a model of "
            "RGB images [N, height, width, 3] with one output of logits, or of probabilities that "
            "sum to 1. Leave that out, and give the arrays as the model takes them: with --inputs "
            "FILE.npz, in Python as a dictionary."
        )


def check_precision(name, precision):
    """Raises an InputError for a precision without a tolerance, such as int8."""
    if precision not in EPSILON:
        raise InputError(
            f"precision {precision}: {name} is not an image classifier. Expected "
            f"{' or '.join(EPSILON)}, which have tolerances for other outputs."
        )


def of_model(model, arrays, name, folder, fold=True):
    """Returns the `TensorSource` of a float32 Keras model and an array for each of its inputs.

    Raises:
        InputError: If an array is missing or of another shape.
    """
    taken = keras_models.inputs(model)
    if {tensor.name for tensor in taken} != set(arrays):
        raise InputError(
            f"{name} has the inputs {', '.join(sorted(t.name for t in taken))}: received arrays "
            f"for {', '.join(sorted(arrays)) or 'none'}"
        )
    for tensor in taken:
        found = arrays[tensor.name].shape
        if not fits(tensor.shape, found):
            raise InputError(
                f"{name} takes {tensor.name} of shape {list(tensor.shape)}: received {list(found)}"
            )
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise InputError(f"{name}: expected the same number of samples for each input, from 1")
    samples = Samples({t.name: np.asarray(arrays[t.name]).astype(t.dtype) for t in taken})
    served, folding = keras_models.folded(model) if fold else (model, "Not folded.")
    names = [tensor.name for tensor in taken]
    outputs = list(keras_models.call(model, samples[:1].arrays))  # of the unfolded model

    @tf.function(
        input_signature=[tf.TensorSpec((None, *t.shape[1:]), t.dtype, name=t.name) for t in taken]
    )
    def function(*tensors):
        return keras_models.call(served, dict(zip(names, tensors, strict=True)), outputs)

    function.loaded = tf.Module()
    function.loaded.weights = [variable.value for variable in served.variables]
    return TensorSource(name, Path(folder), function, model, samples, [folding])


class Check:
    """What the stages compare: the reference and a candidate on the `Samples` of an export."""

    def __init__(self, export, candidate, advance):
        self.source, self.samples = export.source, export.images
        self.missing_weights = export.missing_weights
        self.candidate, self.precision = candidate, export.precision
        self.advance = advance

    @cached_property
    def true(self):
        """The reference's outputs: name -> array."""
        found = self.source.evaluate(self.samples)
        self.advance(len(self.samples))
        return found

    @cached_property
    def found(self):
        """The candidate's outputs, likewise."""
        found = _joined(self.run, self.samples)
        self.advance(len(self.samples))
        return found

    def run(self, arrays):
        """Returns the candidate's outputs of arrays; RejectedError if it rejects them."""
        try:
            return self.candidate.run(arrays)
        except Exception as error:  # the runtimes' exceptions have no public base class
            raise RejectedError(f"it rejects its inputs: {one_line(error)}") from None

    @cached_property
    def limits(self):
        """The largest difference that is accepted: output name -> array, one for each column."""
        epsilon = EPSILON[self.precision]
        return {name: epsilon * _epsilons(array) for name, array in self.true.items()}

    @cached_property
    def rounding(self):
        """Of the reference: output name -> number."""
        return self.source.rounding(self.samples)

    def worst(self, differences):
        """Returns the columns that exceed their limits most, or are nearest to them.

        If a float32 limit is exceeded, it is twice the reference's own rounding, if that is larger.

        Args:
            differences: Dictionary, output name to the largest difference of each column.

        Returns:
            Dictionary, output name to (column, difference, limit).
        """
        limits = self.limits
        if self.precision == "float32" and any((differences[n] > limits[n]).any() for n in limits):
            limits = {n: np.maximum(limits[n], 2 * self.rounding[n]) for n in limits}
        found = {}
        for name, limit in limits.items():
            column = int(np.argmax(differences[name] - limit))  # the first NaN, if there is one
            found[name] = column, *(float(a.flat[column]) for a in (differences[name], limit))
        return found


def interface(check):
    """Names and shapes; some samples give the same outputs in another batch."""
    declared = check.candidate.signatures()[IMAGE.signature]
    inputs = {i.name: i.shape for i in keras_models.inputs(check.source.model)}
    true = {name: array.shape[1:] for name, array in check.true.items()}
    if declared.inputs != inputs or set(declared.outputs) != set(true):
        return {}, [f"it declares {declared.inputs} → {declared.outputs}, not {inputs} → {true}"]
    found = {name: array.shape[1:] for name, array in check.found.items()}
    if found != true:
        return {}, [f"its outputs have the shapes {found}, not {true}"]
    differences = dict.fromkeys(true, np.float32(0))
    for size in BATCHES:
        index = np.arange(size) % len(check.samples)
        for name, array in check.run(check.samples[index].arrays).items():
            difference = _columns(array - check.found[name][index])
            differences[name] = np.maximum(differences[name], difference)
    complaints = [
        f"{name} changes by {value:.3g} with the batch"
        for name, (_, value, limit) in check.worst(differences).items()
        if not value <= limit
    ]
    largest = {name: _largest(array) for name, array in differences.items()}
    return {"batches": list(BATCHES), "largest_difference_by_batch": largest}, complaints


def values(check):
    """Every output, sample by sample."""
    differences = {name: _columns(check.found[name] - true) for name, true in check.true.items()}
    worst = check.worst(differences)
    numbers = {
        "samples": len(check.samples),
        "largest_value": {name: _largest(array) for name, array in check.true.items()},
        "largest_absolute_difference": {n: _largest(array) for n, array in differences.items()},
        "difference_in_worst_column": {name: value for name, (_, value, _) in worst.items()},
        "limits": {"difference_in_worst_column": {n: limit for n, (_, _, limit) in worst.items()}},
    }
    complaints = [
        f"{name} differs by {value:.3g} in column {column}, expected at most {limit:.3g}"
        for name, (column, value, limit) in worst.items()
        if not value <= limit  # a NaN fails
    ]
    return numbers, complaints


class Renamed:
    """An ONNX model under the names of a `TensorSource`; if its own differ, by their order."""

    def __init__(self, model, source):
        self.provider = model.provider
        self._model = model
        declared = model.signatures()[IMAGE.signature]
        inputs = [tensor.name for tensor in keras_models.inputs(source.model)]
        outputs = list(source.evaluate(source.samples[:1]))
        sides = ((inputs, declared.inputs), (outputs, declared.outputs))
        for ours, theirs in sides:
            if len(ours) != len(theirs):
                raise InputError(
                    f"{model.source} has {', '.join(theirs)}, and the model {', '.join(ours)}"
                )
        self._inputs, self._outputs = (
            dict(zip(ours, ours if set(ours) == set(theirs) else theirs, strict=True))
            for ours, theirs in sides
        )

    def signatures(self):
        """Returns the one signature, under the model's names."""
        declared = self._model.signatures()[IMAGE.signature]
        return {
            IMAGE.signature: Signature(
                {name: declared.inputs[other] for name, other in self._inputs.items()},
                {name: declared.outputs[other] for name, other in self._outputs.items()},
            )
        }

    def run(self, arrays):
        """Returns all outputs: name -> array, of input name -> array."""
        found = self._model.run({self._inputs[name]: array for name, array in arrays.items()})
        return {name: found[other] for name, other in self._outputs.items()}


STAGES = {"interface": interface, "values": values}


def _joined(function, samples, size=64):
    """Returns a function's outputs of all samples, a batch at a time: name -> array."""
    starts = range(0, len(samples), size)
    batches = [function(samples[start : start + size].arrays) for start in starts]
    found = {name: np.concatenate([np.asarray(b[name]) for b in batches]) for name in batches[0]}
    for name, array in found.items():
        if array.dtype == bool:  # NumPy does not subtract those
            found[name] = array.astype(np.int8)
    return found


def _epsilons(array):
    """Returns how many epsilons each column of an output may differ by; of integers 0."""
    columns, largest = _columns(array), _largest(array)
    if not np.issubdtype(array.dtype, np.floating):
        return np.zeros(columns.shape)
    if columns.size * ROWS > array.size:
        return np.full(columns.shape, OF_OUTPUT * largest)
    return np.minimum(OF_OUTPUT * largest, OF_COLUMN * np.maximum(columns, FLOOR * largest))


def _columns(array):
    """Returns the largest absolute value of each column, which is along the last axis."""
    return np.abs(array).max(axis=tuple(range(max(array.ndim - 1, 1))), initial=0)


def _largest(array):
    return float(np.abs(array).max(initial=0))
