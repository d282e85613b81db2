"""Whether a file holds the numbers that were trained, to the last bit.

Answers to images show a wrong number only if it matters for them. The numbers themselves can be
compared: a SavedModel holds the Keras model's variables, or those of its folded form, in their
order; a float32 ONNX file holds the folded form's, in an order of axes of its own.
"""

import keras
import numpy as np

import keras_nam
from export.onnx_graph import foreign_constants, missing_weights
from keras_nam.attention.base import ImageAttention
from training.data import scale_and_offset

# The converter computes with the constants in these, and so rounds some of them anew.
RECOMPUTED = (ImageAttention, keras.layers.BatchNormalization)


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


def missing_from_onnx(source, model):
    """Returns the names of what differs between a run's weights and a float32 ONNX model's.

    Of an unfolded SavedModel, whose normalizations the converter folds, only the values can tell.
    """
    if source.run is None or not is_folded(source):
        return []
    scale, offset = scale_and_offset(source.run.mean, source.run.std)
    expected = {"the normalization's scale": scale, "the normalization's offset": offset}
    layers = keras_nam.fold(source.run.model).layers
    kept = [layer for layer in layers if not isinstance(layer, RECOMPUTED)]
    for layer in kept:
        expected |= {variable.path: np.asarray(variable) for variable in layer.variables}
    differing = missing_weights(model, expected)
    if len(kept) == len(layers):
        differing += foreign_constants(model, expected)
    return differing


def is_folded(source):
    """Whether a run's SavedModel has the number of variables of the folded form."""
    return len(source.classify.loaded.weights) != len(source.run.model.variables)


def _variables(source):
    model = source.run.model
    if is_folded(source):
        model = keras_nam.fold(model)
    return {variable.path: np.asarray(variable) for variable in model.variables}
