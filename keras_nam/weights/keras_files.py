"""Weights of `.keras` and `.weights.h5` files, without building the model that they describe."""

import io
import zipfile

import h5py
import numpy as np

from keras_nam.weights.formats import Entry, Layout, bfloat16

MEMBER = "model.weights.h5"


class KerasWeights(dict):
    """The arrays of a file, by the names of the layers and the variables' numbers."""


class StoredArray:
    """An array that is read on use, after its shape was compared with the model's."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.shape, self.dtype = dataset.shape, dataset.dtype

    def __array__(self, dtype=None, copy=None):
        try:
            values = np.asarray(self._dataset[()])  # h5py returns a number for a scalar
        except OSError as error:
            raise ValueError(f"{self._dataset.name} is damaged: {error}") from None
        is_bfloat16 = self._dataset.attrs.get("dtype") == "bfloat16" and values.itemsize == 2
        return bfloat16(values.view(np.uint16)) if is_bfloat16 else values


def read(path):
    """Returns the `KerasWeights` of a file, with keys such as `"stem_conv/0"`.

    Variables of an optimizer and data in another file are left out.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            file = h5py.File(io.BytesIO(archive.read(MEMBER)), "r")
    else:
        file = h5py.File(path, "r")
    layers, arrays = {}, {}

    def visit(place, item):  # visititems follows no link to another file
        group, found, number = f"/{place}".rpartition("/vars/")  # "/vars/0": the model's own
        if place.endswith("/vars") and isinstance(item.attrs.get("name"), str):
            layers[place.removesuffix("/vars")] = item.attrs["name"]
        elif found and not place.startswith("optimizer/") and _is_stored(item):
            arrays[group.removeprefix("/"), number] = StoredArray(item)

    file.visititems(visit)
    weights = KerasWeights()
    for (group, number), array in arrays.items():
        _add(weights, f"{_layer_path(group, layers)}/{number}".removeprefix("/"), array)
    return weights


def _is_stored(item):
    return isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual)


def _layer_path(group, layers):
    """Returns the names of the layers on the way to a group, such as `"stage1_bam/channel_bn"`.

    Keras names the groups after classes and keeps the layers' names beside the variables.
    """
    parts = group.split("/")
    groups = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return "/".join(layers[group] for group in groups if group in layers) or group


def entries(model):
    """Yields an `Entry` for every weight of a model, with the keys of `read`."""
    found = {}
    for path, _, own in _layers(model):
        for number, variable in own.items():
            _add(found, f"{path}{number}", variable)
    for key, variable in found.items():
        yield Entry(variable, key, Layout(tuple(range(len(variable.shape)))))


def load(model, arrays):
    """Gives arrays to a model by the keys of `entries`. What has no array is kept."""
    for path, layer, own in _layers(model):
        given = {n: arrays[f"{path}{n}"] for n in own if f"{path}{n}" in arrays}
        if given:
            layer.load_own_variables({**own, **given})


def _layers(layer, path="", seen=None):
    """Yields each layer once, as Keras saves it: its place, the layer, what it saves."""
    seen = set() if seen is None else seen
    if id(layer) in seen:
        return
    seen.add(id(layer))
    own = {}
    layer.save_own_variables(own)
    yield path, layer, own
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        yield from _layers(inner, f"{path}{inner.name}/", seen)


def _add(found, key, value):
    if key in found:
        raise ValueError(
            f"Layers are matched by name, and two have the name {key.rpartition('/')[0]!r}. "
            "Name them differently, or use Keras' own `load_weights`"
        )
    found[key] = value
