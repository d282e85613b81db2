"""Folding: a trained model becomes an equal one for inference, without its normalizations."""

from collections import Counter
from functools import partial

import keras

from keras_nam.folded_layers import folded_gates, folded_weights, takes
from keras_nam.normalization import BatchNormalization

NORMALIZATIONS = (keras.layers.BatchNormalization, BatchNormalization)


def fold(model):
    """Returns an equal model for inference, with its normalizations folded away.

    A batch normalization after a linear layer becomes a part of it:

    `kernel * s` and `beta + (bias - mean) * s`, with `s = gamma / sqrt(variance + epsilon)`

    A NAM gate, of channels or of positions, becomes a `FoldedGate`:

    `y = x * sigmoid(a * x + b)`, with `a = w * s`, `b = w * beta - a * mean`,
    `w = |gamma| / sum(|gamma|)`

    The numbers are computed in float64 and rounded once. A normalization is folded if it is
    Keras' or this package's own (no subclass, no renormalization) over the output channels of a
    Dense or convolution layer without activation, if nothing else uses that layer's output, each
    is called once, and both have one dtype policy. All else is copied with its weights, inside
    nested models too. Every normalization is in inference mode, also where it was called with
    `training=True`.

    Args:
        model: A `keras.Model`, functional or a built `Sequential`. It is not changed.

    Returns:
        A functional `keras.Model` of the same name, inputs, outputs and dtype policies, with
        variables of its own, neither trainable nor compiled. In float32 its outputs are the
        model's but for rounding. Under mixed precision they differ by the half type's rounding:
        it is the folded kernel that is cast.

    Raises:
        ValueError: If the model is no graph of layers: a subclassed model with a `call` of its
            own, a `Sequential` that is not built, or no model.

    Example:

    >>> model = keras_nam.create_model("r50_nam")
    >>> keras_nam.fold(model).count_params()
    23708900
    """
    if not _is_graph(model):
        unbuilt = " that is not built" if getattr(model, "built", True) is False else ""
        raise ValueError(
            "`fold` expects a graph of layers: a functional model, or a Sequential model that is "
            f"built. Received: a {type(model).__name__}{unbuilt}"
        )
    graphs = _graphs(model)
    copying = _Copying(graphs, _foldable(graphs.values()))
    folded = copying.graph(model)
    for set_weights in copying.transfers:
        set_weights()
    folded.trainable = False
    return folded


def _is_graph(model):
    """Whether calling a model runs a graph of layers, and nothing else."""
    return (
        isinstance(model, keras.Model)
        and isinstance(model, keras.Function | keras.Sequential)
        and type(model).call.__module__.startswith("keras.")
        and hasattr(model, "inputs")  # a Sequential model has none until it is built
    )


def _graphs(model):
    """Returns model -> its graph as a functional model, of it and of all models nested in it."""
    if isinstance(model, keras.Sequential):
        ends = [
            tensors[0] if len(tensors) == 1 else tensors
            for tensors in (model.inputs, model.outputs)
        ]
    else:
        ends = model.input, model.output
    graph = keras.Model(*ends, name=model.name)
    found = {model: graph}
    for layer in filter(_is_graph, graph.layers):
        found |= _graphs(layer)
    return found


def _nodes(graph):
    return [node for nodes in graph._nodes_by_depth.values() for node in nodes]


def _foldable(graphs):
    """Returns linear layer -> the normalization that can become a part of it."""
    calls = Counter(node.operation for graph in graphs for node in _nodes(graph))
    found = {}
    for graph in graphs:
        nodes = _nodes(graph)
        producers = {id(tensor): node.operation for node in nodes for tensor in node.outputs}
        uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
        uses.update(id(tensor) for tensor in graph.outputs)
        for node in nodes:
            normalization = node.operation
            if type(normalization) not in NORMALIZATIONS or len(node.input_tensors) != 1:
                continue
            (tensor,) = node.input_tensors
            layer = producers[id(tensor)]
            once = uses[id(tensor)] == calls[layer] == calls[normalization] == 1
            if once and takes(layer, normalization, rank=len(tensor.shape)):
                found[layer] = normalization
    return found


class _Copying:
    """Copies graphs, and each layer of theirs once; `transfers` then set the copies' weights.

    Args:
        graphs: Dictionary model -> its graph, of the models to copy layer by layer.
        normalizations: Dictionary linear layer -> the normalization to fold into it.
    """

    def __init__(self, graphs, normalizations):
        self.graphs = graphs
        self.normalizations = normalizations
        self.removed = set(normalizations.values())
        self.copies = {}
        self.transfers = []

    def graph(self, model):
        """Returns the copy of a model's graph."""
        graph = self.graphs[model]
        inputs = keras.tree.map_structure(_copy_input, graph.input)
        return keras.models.clone_model(graph, inputs, clone_function=self.layer)

    def layer(self, layer):
        """Returns what is called in a layer's place."""
        if layer not in self.copies:
            self.copies[layer] = self._copy(layer)
        return self.copies[layer]

    def _copy(self, layer):
        if layer in self.graphs:
            return self.graph(layer)
        if layer in self.removed:
            return partial(_through, [])
        gates = folded_gates(layer)
        for gate, weights in gates:
            self.transfers.append(partial(_assign, gate, weights))
        if gates:
            return partial(_through, [gate for gate, _ in gates])
        if layer in self.normalizations:
            copy = type(layer).from_config({**layer.get_config(), "use_bias": True})
            weights = folded_weights(layer, self.normalizations[layer])
            self.transfers.append(partial(_assign, copy, weights))
            return copy
        copy = type(layer).from_config(layer.get_config())
        if isinstance(layer, keras.layers.Layer):  # else an operation of keras.ops
            self.transfers.append(partial(_copy_weights, layer, copy))
        return copy


def _copy_input(tensor):
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _through(layers, inputs, *unused_args, **unused_kwargs):
    """Calls layers in turn, without the `training` and `mask` that those replaced took."""
    for layer in layers:
        inputs = layer(inputs)
    return inputs


def _assign(layer, weights):
    for name, value in weights.items():
        variable = getattr(layer, name)
        variable.assign(value.reshape(variable.shape))


def _copy_weights(source, target):
    """Sets the weights of a layer and of those in it, as if they were saved and loaded."""
    for old, new in zip(source._flatten_layers(), target._flatten_layers(), strict=True):
        store = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
