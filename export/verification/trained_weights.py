"""Whether a file holds the numbers that were trained, bit for bit.

Answers to images show a wrong number only if it matters for them. The numbers themselves can be
compared: a SavedModel holds the Keras model's variables, or those of its folded form, in their
order; a float32 ONNX file holds the folded form's, in an order of axes of its own.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_nam
from keras_nam.attention.base import ImageAttention
from keras_nam.fold import FoldedGate
from training.data.streams import scale_and_offset

# The converter computes with the constants in these, and so rounds some of them anew.
RECOMPUTED = (ImageAttention, keras.layers.BatchNormalization)


def missing(source, constants=None, whole=True):
    """Returns the names of what differs: in the SavedModel, or else in a file made of it.

    The arguments are those of `missing_from_file`; without `constants` no file is looked at.
    """
    differing = missing_from_saved_model(source)
    if constants is not None:
        differing = differing or missing_from_file(source, constants, whole)
    return differing


def missing_from_saved_model(source):
    """Returns the names of a run's weights that its SavedModel does not hold."""
    if source.run is None:
        return []
    served = [variable.numpy() for variable in source.classify.loaded.weights]
    expected = _variables(source)
    if len(served) != len(expected):
        return list(expected)
    return [
        name
        for (name, array), other in zip(expected.items(), served, strict=True)
        if array.shape != other.shape or array.tobytes() != other.tobytes()
    ]


def missing_from_file(source, constants, whole=True):
    """Returns the names of what differs between a run's weights and a float32 file's constants.

    Of an unfolded SavedModel, whose normalizations the converter folds, only the values can tell.

    Args:
        source: A `Source`.
        constants: Dictionary name -> float32 array, what the file holds.
        whole: Whether a constant that is no weight counts too. If not, it is a LiteRT file, whose
            converter multiplies a gate's scale by the inverse root of a variance of 1.
    """
    if source.run is None or not is_folded(source):
        return []
    scale, offset = scale_and_offset(source.run.mean, source.run.std)
    expected = {"the normalization's scale": scale, "the normalization's offset": offset}
    layers = keras_nam.fold(source.run.model).layers
    kept = [layer for layer in layers if not isinstance(layer, RECOMPUTED)]
    for layer in kept:
        expected |= {variable.path: np.asarray(variable) for variable in layer.variables}
    there = {_bits(array) for array in constants.values()}
    if not whole:
        gates = [layer.scale.path for layer in kept if isinstance(layer, FoldedGate)]
        changed = {name: expected[name] * _inverse_root_of_one(expected[name]) for name in gates}
        expected |= {name: array for name, array in changed.items() if _bits(array) in there}
    differing = [name for name, array in expected.items() if _bits(array) not in there]
    if whole and len(kept) == len(layers):
        known = {_bits(array) for array in expected.values()}
        differing += [
            name
            for name, array in constants.items()
            if _bits(array) not in known and not _is_whole(array)
        ]
    return differing


def _bits(array):
    """Returns the numbers of an array, sorted: the order of the axes is the format's."""
    return np.sort(np.ascontiguousarray(array).view(np.uint32), axis=None).tobytes()


def _inverse_root_of_one(array):
    """Returns it as this processor computes it: with AVX-512 it is 1 - 2**-23."""
    return tf.math.rsqrt(tf.ones_like(array)).numpy()


def _is_whole(array):
    """Whether it is of whole numbers, as the operators' own constants are: 0, 1, a ReLU's 6."""
    return np.array_equal(array, np.round(array))


def is_folded(source):
    """Whether a run's SavedModel has the number of variables of the folded form."""
    return len(source.classify.loaded.weights) != len(source.run.model.variables)


def _variables(source):
    model = source.run.model
    if is_folded(source):
        model = keras_nam.fold(model)
    return {variable.path: np.asarray(variable) for variable in model.variables}
