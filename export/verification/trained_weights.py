"""Whether a file holds the trained weights, bit-exact.

The scores of images show a wrong weight only if it matters for these images. The weights
themselves can be compared: a SavedModel holds the Keras model's variables, or the folded model's,
in the same order. A float32 ONNX file holds the folded model's in its own order of axes.
"""

import keras
import numpy as np
import tensorflow as tf

import keras_nam
from keras_nam.attention.base import ImageAttention
from keras_nam.fold import KERNELS, FoldedGate
from keras_nam.graph_copy import following

# The converter computes with the constants in these, and so rounds some of them again.
RECOMPUTED = (ImageAttention, keras.layers.BatchNormalization)


def missing(source, constants=None, whole=True):
    """Returns the names of the trained weights that the SavedModel or the file does not hold.

    Args:
        source: A `Source`; without a Keras model the answer is `None`.
        constants: Dictionary name -> float32 array, what a float32 file holds; `None` to look at
            the SavedModel only.
        whole: Whether a constant that is not a weight counts too. If not, it is a LiteRT file,
            whose converter multiplies a gate's scale by the inverse root of a variance of 1, and a
            kernel by the factor of a Rescaling layer before it.
    """
    model = source.model
    if model is None:
        return None
    served = [variable.numpy() for variable in source.classify.loaded.weights]
    is_folded = len(served) != len(model.variables)
    folded = keras_nam.fold(model) if is_folded else None
    expected = {v.path: np.asarray(v) for v in (folded or model).variables}
    kept = {v.path for v in (folded or model).weights}  # without the seeds of random layers
    if len(served) != len(expected):
        return list(expected)
    differing = [
        name
        for (name, array), other in zip(expected.items(), served, strict=True)
        if name in kept and (array.shape != other.shape or array.tobytes() != other.tobytes())
    ]
    # The converter folds the normalizations of an unfolded model: its constants are others.
    if differing or constants is None or not is_folded:
        return differing
    return _missing_from_file(source, folded, constants, whole)


def _missing_from_file(source, folded, constants, whole):
    """Returns the names of what differs between a folded model and a float32 file's constants."""
    expected = {}
    if source.normalize.changes_values:
        scale, offset = source.normalize.scale_and_offset()
        expected = {"the normalization's scale": scale, "the normalization's offset": offset}
    if source.run is None:  # other models' layers have constants of their own
        parts = [layer for layer in folded._flatten_layers() if not layer._layers]
        kept = [layer for layer in parts if type(layer) in (*KERNELS, FoldedGate)]
    else:
        kept = [layer for layer in folded.layers if not isinstance(layer, RECOMPUTED)]
    for layer in kept:
        expected |= {variable.path: np.asarray(variable) for variable in layer.variables}
    if source.run is None and not whole:
        # LiteRT's converter adds what follows, such as a hard sigmoid's 3, to an offset.
        expected = {name: array for name, array in expected.items() if "/bias" not in name}
    whole = whole and source.run is not None
    there = {_bits(array) for array in constants.values()}
    if not whole:
        gates = [layer.scale.path for layer in kept if isinstance(layer, FoldedGate)]
        changed = {name: expected[name] * _inverse_root_of_one(expected[name]) for name in gates}
        changed |= _rescaled_kernels(folded, expected)
        expected |= {name: array for name, array in changed.items() if _bits(array) in there}
    # An offset of 0 is not stored.
    differing = [n for n, array in expected.items() if array.any() and _bits(array) not in there]
    if whole and len(kept) == len(folded.layers):
        known = {_bits(array) for array in expected.values()}
        differing += [
            name
            for name, array in constants.items()
            # Whole numbers are the operators' own constants: 0, 1, a ReLU's 6.
            if _bits(array) not in known and not np.array_equal(array, np.round(array))
        ]
    return differing


def _rescaled_kernels(model, expected):
    """Returns the kernels after a Rescaling layer, multiplied by its factor: name -> array."""
    found = {}
    for layer, (after, _) in following([model]).items():
        if type(layer) is keras.layers.Rescaling and type(after) in KERNELS:
            name = getattr(after, KERNELS[type(after)][0]).path
            found[name] = expected[name] * np.float32(layer.scale)
    return found


def _bits(array):
    """Returns the numbers of an array, sorted, because each format has its own order of axes."""
    return np.sort(np.ascontiguousarray(array).view(np.uint32), axis=None).tobytes()


def _inverse_root_of_one(array):
    """Returns 1 / sqrt(1) as this processor computes it: with AVX-512 it is 1 - 2**-23."""
    return tf.math.rsqrt(tf.ones_like(array)).numpy()
