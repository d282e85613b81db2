"""Copies of a model's graph with some layers replaced, for `fold` and `slim`."""

import inspect
import tempfile
from collections import Counter, defaultdict

import keras
import numpy as np
from keras import layers, ops
from keras.src.saving.serialization_lib import SafeModeScope


class GraphCopy:
    """Copies a graph of layers, with the nested ones. A subclass replaces layers.

    All layers are copied with the state that Keras saves, except the replaced ones.

    Args:
        model: A `keras.Model`.
        caller: Name of the function that copies, for messages.

    Attributes:
        graphs: Model -> its graph as a functional model, for the model and all nested ones.
        transfers: Tuples (layer, function, *arguments). Each function is called once all layers
            are built; an error in it names the layer.

    Raises:
        ValueError: If the model is not a graph of layers.
    """

    def __init__(self, model, caller):
        if not _is_graph(model):
            unbuilt = " that is not built" if getattr(model, "built", True) is False else ""
            raise ValueError(
                f"`{caller}` expects a graph of layers: a functional model, or a Sequential model "
                f"that is built. Received: a {type(model).__name__}{unbuilt}"
            )
        self.model = model
        self.caller = caller
        self.graphs = _graphs(model)
        self.copies = {}
        self.transfers = []

    @staticmethod
    def call(layer, *args, **kwargs):
        """Calls a layer of the copy, as the graph does."""
        return layer(*args, **kwargs)

    def replacement(self, layer):
        """Returns the callable that replaces a layer, or `None` to copy it."""
        return None

    def copy(self):
        """Returns the copy of the model, with its state.

        Raises:
            ValueError: If a layer cannot be copied; the message names it.
        """
        self.current = self.model
        try:
            # The configurations come from the model, not from a file: their lambdas are trusted.
            with SafeModeScope(False):
                copy = self._graph(self.model)
            for layer, transfer, *arguments in self.transfers:
                self.current = layer
                transfer(*arguments)
        except Exception as error:
            name, kind = self.current.name, type(self.current).__name__
            raise ValueError(
                f"`{self.caller}` cannot copy the layer {name!r}, a {kind}. {error}"
            ) from error
        return copy

    def _graph(self, model):
        graph = self.graphs[model]
        inputs = keras.tree.map_structure(_copy_input, graph.input)
        return keras.models.clone_model(
            graph, inputs, clone_function=self._layer, call_function=self.call
        )

    def _layer(self, layer):
        """Returns the callable that stands for a layer in the copy."""
        self.current = layer
        if layer not in self.copies:
            self.copies[layer] = self._copy(layer)
        return self.copies[layer]

    def _copy(self, layer):
        if layer in self.graphs:
            return self._graph(layer)
        replaced = self.replacement(layer)
        if replaced is not None:
            return replaced
        copy = again(layer)
        if isinstance(layer, layers.Layer):  # not an operation of keras.ops
            self.transfers.append((layer, _copy_state, layer, copy))
        return copy


def following(graphs):
    """Returns layer -> (the only layer that uses its output, the output's rank).

    Both are called once, with one tensor. Others are left out.
    """
    nodes = [node for graph in graphs for row in graph._nodes_by_depth.values() for node in row]
    calls = Counter(node.operation for node in nodes)
    users = defaultdict(list)
    for node in nodes:
        for tensor in node.input_tensors:
            users[id(tensor)].append(node)
    for graph in graphs:
        for tensor in graph.outputs:
            users[id(tensor)].append(None)
    found = {}
    for node in nodes:
        tensor, *others = node.outputs
        uses = users[id(tensor)]
        if others or len(uses) != 1 or uses[0] is None or len(uses[0].input_tensors) > 1:
            continue
        user = uses[0]
        if calls[node.operation] == calls[user.operation] == 1:
            found[node.operation] = user.operation, len(tensor.shape)
    return found


def again(layer, **changes):
    """Returns a new layer, or operation, of the same configuration."""
    if type(layer) is layers.Lambda:
        changes = {"output_shape": layer._output_shape, "mask": layer.mask}
        changes |= {"function": layer.function, "arguments": layer.arguments}
        return layers.Lambda(**{**layer.get_config(), **changes})
    parts = layer._flatten_layers() if isinstance(layer, layers.Layer) else []
    custom = {type(part).__name__: type(part) for part in parts if not _is_of_keras(part)}
    with keras.saving.custom_object_scope(custom):
        config = layer.get_config()
        # A configuration has the code of a lambda without its globals, so the function is passed.
        functions = {k: v for k, v in vars(layer).items() if k in config and inspect.isfunction(v)}
        return type(layer).from_config({**config, **functions, **changes})


def _is_graph(model):
    """Whether a model is a graph of layers, without other code in its `call`."""
    return (
        isinstance(model, keras.Model)
        and isinstance(model, keras.Function | keras.Sequential)
        and type(model).call.__module__.startswith("keras.")
        and hasattr(model, "inputs")  # a Sequential model has none until it is built
    )


def _graphs(model):
    """Returns model -> its graph as a functional model, for a model and all nested ones."""
    if isinstance(model, keras.Sequential):
        ends = [ends[0] if len(ends) == 1 else ends for ends in (model.inputs, model.outputs)]
    else:
        ends = model.input, model.output
    graph = keras.Model(*ends, name=model.name)
    found = {model: graph}
    for layer in filter(_is_graph, graph.layers):
        found |= _graphs(layer)
    return found


def _copy_input(tensor):
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _is_of_keras(layer):
    return type(layer).__module__.startswith("keras.")


def _copy_state(source, target, seen=()):
    """Copies the state of a layer and its inner layers, as if they were saved and loaded.

    The arrays are copied because Keras' JAX trainer donates its variables' arrays.
    """
    if source in seen:
        return
    if source.built and not target.built:  # for example by a call in training
        target.build_from_config(source.get_build_config())
    _check(source, target)
    store = {}
    source.save_own_variables(store)
    arrays = {key: np.array(ops.convert_to_numpy(value)) for key, value in store.items()}
    target.load_own_variables(arrays)
    if hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)
    # Not by the setter, which changes the inner layers too.
    target._trainable = source._trainable
    for old, new in zip(source._trainable_variables, target._trainable_variables, strict=False):
        new.trainable = old.trainable
    for old, new in zip(source._layers, target._layers, strict=True):
        _copy_state(old, new, (*seen, source))


def _check(source, target):
    """Raises unless a copy has the parts and attributes of its source."""
    own = [] if _is_of_keras(source) else _own_attributes(source, target)
    pairs = {name: (getattr(source, name), getattr(target, name, None)) for name in own}
    pairs["dtype_policy"] = source.dtype_policy, target.dtype_policy
    pairs["layers"] = [[type(part).__name__ for part in x._layers] for x in (source, target)]
    for name, (value, copied) in pairs.items():
        if not _equal(value, copied):
            raise ValueError(
                f"Expected its `get_config` to describe {source.path!r}. "
                f"Received: {name}={value!r}, and {copied!r} in the copy"
            )


def _own_attributes(source, target):
    """Returns the names of the attributes that a layer's own code sets, and not Keras."""
    is_model = isinstance(source, keras.Model)
    of_keras = {*vars(keras.Model() if is_model else layers.Layer()), "built", "_build_shapes_dict"}
    return [
        name
        for name in vars(source)
        if name not in of_keras
        and not name.startswith("_self_")  # TensorFlow's, for its checkpoints
        and (not is_model or hasattr(target, name))  # else of `compile` or `fit`
    ]


def _equal(value, copied):
    """Whether two attributes are equal; other than numbers, texts and arrays always are."""
    if isinstance(value, dict) and isinstance(copied, dict):
        return value.keys() == copied.keys() and all(_equal(value[k], copied[k]) for k in value)
    if ops.is_tensor(value) and not isinstance(value, keras.Variable):
        value = ops.convert_to_numpy(value)
        copied = ops.convert_to_numpy(copied) if ops.is_tensor(copied) else copied
    if isinstance(value, list | tuple) and isinstance(copied, list | tuple):
        return len(value) == len(copied) and all(map(_equal, value, copied))
    plain = bool | int | float | str | None | np.ndarray | np.generic | keras.DTypePolicy
    return not isinstance(value, plain) or np.array_equal(value, copied)
