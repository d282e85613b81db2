"""What the NAM gates of a model do to its inputs."""

import keras
from keras import ops

from keras_nam.attention.normalization_gate import NormalizationGate


def gate_values(model, inputs):
    """Returns the values of each NAM gate of a model on some inputs, in inference.

    The values are `sigmoid(w * BN(x))`, by which a gate multiplies `x`: 0.5 halves it. Any Keras
    model is accepted: functional, subclassed, nested, folded ones excepted.

    Args:
        model: A built `keras.Model` or `keras.Layer`.
        inputs: What the model is called with: an array or tensor, or a structure of them.

    Returns:
        Dictionary from each gate's `path`, such as `"stage1_block1_nam"`, to a float32 array of the
        shape of the gate's inputs. Further calls of the same gate, and other gates of the same
        path, have the suffixes `#2`, `#3`.

    Raises:
        ValueError: If the model has no gate, or calls none: its `call` must run in Python, and not
            be a `tf.function`.

    Example:

    >>> model = keras_nam.create_model("r18_nam", num_classes=10)
    >>> values = keras_nam.gate_values(model, images)
    """
    if not gates_of(model):
        raise ValueError(
            f"{model.name!r} has no NAM gate. A folded model has none either: its gates are merged "
            "into other layers."
        )
    found = {}
    calls = recorded_calls(model, keras.tree.map_structure(ops.convert_to_tensor, inputs))
    if not calls:
        raise ValueError(
            f"{model.name!r} called none of its NAM gates. Expected a `call` in Python, not "
            "a `tf.function`"
        )
    for gate, values in calls:
        again = sum(key.partition("#")[0] == gate.path for key in found)
        name = f"{gate.path}#{again + 1}" if again else gate.path
        found[name] = ops.convert_to_numpy(values)
    return found


def gates_of(model):
    """Returns the NAM gates of a model or layer, nested ones included."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, NormalizationGate)]


def recorded_calls(model, inputs):
    """Calls a model on tensors in inference; returns (gate, values) of each call of a gate."""
    calls = []
    gates = gates_of(model)
    for gate in gates:
        gate.record = lambda gate, values: calls.append((gate, values))
    try:
        model(inputs, training=False)
    finally:
        for gate in gates:
            del gate.record
    return calls
