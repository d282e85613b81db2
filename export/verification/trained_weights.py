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
from keras_nam.fold import FoldedGate, has_plain_kernel

# The converter computes with the constants in these, and so rounds some of them again.
RECOMPUTED = (ImageAttention, keras.layers.BatchNormalization)
SAME = {"rtol": 2.0**-21, "atol": 2.0**-126}  # of a product: a few roundings of float32


def missing(source, constants=None, whole=True):
    """Returns the names of the trained weights that the SavedModel or the file does not hold.

    Args:
        source: A `Source` or a `TensorSource`.
        constants: Dictionary name -> float32 array, what a float32 file holds; `None` to look at
            the SavedModel only.
        whole: Whether a constant that is not a weight counts too. If not, it is a LiteRT file,
            whose converter multiplies a gate's scale by the inverse root of a variance of 1.

    Returns:
        A list, or `None` if nothing was compared. Then there is no Keras model, or there are no
        constants to compare and no SavedModel on the disk.
    """
    model = source.model
    if model is None:
        return None
    served = [variable.numpy() for variable in source.classify.loaded.weights]
    is_folded = len(served) != len(model.variables)
    truth = keras_nam.fold(model) if is_folded else model
    expected = [(variable, np.asarray(variable)) for variable in truth.variables]
    kept = {id(variable) for variable in truth.weights}  # without the seeds of random layers
    if len(served) != len(expected):
        return [variable.path for variable, _ in expected]
    differing = [
        variable.path
        for (variable, array), other in zip(expected, served, strict=True)
        if id(variable) in kept
        and (array.shape != other.shape or array.tobytes() != other.tobytes())
    ]
    # The converter folds the normalizations of an unfolded model: its constants are others.
    has_normalization = any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()
    )
    is_graph = isinstance(model, keras.Function)  # another may have layers that it does not call
    is_comparable = is_folded or (whole and is_graph and not has_normalization)
    if constants is not None and is_comparable and not differing:
        return _missing_from_file(source, truth, constants, whole)
    return differing if differing or source.saved_model else None


def _missing_from_file(source, model, constants, whole):
    """Returns the names of what differs between a served model and a float32 file's constants.

    `None` if none of its layers can be compared.
    """
    expected = []
    scale, offset = source.normalize.scale_and_offset()
    if source.normalize.changes_values:
        expected = [("the normalization's offset", offset)]
    if np.any(scale != 1):  # a product with 1 is removed
        expected.append(("the normalization's scale", scale))
    if source.run is None:  # other models' layers have constants of their own
        parts = [layer for layer in model._flatten_layers() if not layer._layers]
        kept = [layer for layer in parts if type(layer) is FoldedGate or has_plain_kernel(layer)]
    else:
        kept = [layer for layer in model.layers if not isinstance(layer, RECOMPUTED)]
    if not kept:
        return None
    expected += [(v.path, np.asarray(v)) for layer in kept for v in layer.variables]
    if source.run is None and not whole:
        # LiteRT's converter adds what follows, such as a hard sigmoid's 3, to an offset.
        expected = [(name, array) for name, array in expected if "/bias" not in name]
    whole = whole and source.run is not None
    there = {_bits(array) for array in constants.values()}
    gates = {layer.scale.path for layer in kept if isinstance(layer, FoldedGate)}

    def is_there(name, array):
        if _bits(array) in there:
            return True
        if whole:
            return False
        if name in gates:
            return _bits(array * _inverse_root_of_one(array)) in there
        return source.run is None and "kernel" in name and _is_multiple(array, constants)

    # An offset of 0 is not stored.
    differing = [name for name, array in expected if array.any() and not is_there(name, array)]
    if whole and len(kept) == len(model.layers):
        known = {_bits(array) for _, array in expected}
        differing += [
            name
            for name, array in constants.items()
            # Whole numbers are the operators' own constants: 0, 1, a ReLU's 6.
            if _bits(array) not in known and not np.array_equal(array, np.round(array))
        ]
    return differing


def _is_multiple(kernel, constants):
    """Whether a constant is the kernel times a number above 0, other than 1.

    A converter multiplies a kernel by the factor before or after it, such as a Rescaling layer's.
    """
    kernel = np.sort(kernel, axis=None)
    for constant in constants.values():
        if constant.size == kernel.size:
            factor = np.abs(constant).max() / np.abs(kernel).max()
            if not 0 < factor < np.inf or np.isclose(factor, 1, **SAME):
                continue
            if np.allclose(np.sort(constant, axis=None), kernel * factor, **SAME):
                return True
    return False


def _bits(array):
    """Returns the numbers of an array, sorted, because each format has its own order of axes."""
    return np.sort(np.ascontiguousarray(array).view(np.uint32), axis=None).tobytes()


def _inverse_root_of_one(array):
    """Returns 1 / sqrt(1) as this processor computes it: with AVX-512 it is 1 - 2**-23."""
    return tf.math.rsqrt(tf.ones_like(array)).numpy()
