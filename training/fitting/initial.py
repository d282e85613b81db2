"""The weights that a training begins with, and the layers that it freezes."""

import math
from pathlib import Path

import keras
import numpy as np

import keras_nam
from keras_nam import weights
from keras_nam.models import BACKBONES
from training import recipes
from training.cli import InputError
from training.runs import files

CLASSIFIER = "logits"
NAMES_SHOWN = 3
GATE_GAMMA = 0.01  # of a gate that is new in a trained network


def weights_file(source):
    """Returns the path of the file of `--init`: of a run folder its best checkpoint."""
    path = Path(source)
    return path / "best.keras" if path.is_dir() else path


def load(model, source):
    """Loads the weights of a file or a run's best checkpoint into a network.

    The classifier is replaced if the number of classes differs. Attention layers that the file
    does not have stay as they were made, except for NAM gates. These begin at 0.5, so gamma and
    beta of the normalization before each are multiplied by 2 / gain: the network begins with the
    function of the file. The logits differ by less than 1%.

    Args:
        model: A `keras.Model` of `keras_nam.create_model`.
        source: Path of a file as `keras_nam.load_weights` reads it, or of a run folder.

    Returns:
        Dictionary for `config.json`: what was loaded, replaced, missing and unused.

    Raises:
        InputError: If the file cannot be read, or its network is another one.
    """
    path, file = Path(source), weights_file(source)
    if path.is_dir() and not file.is_file():
        raise InputError(f"--init {path}: expected a run folder with best.keras, or a file.")
    try:
        report = keras_nam.load_weights(model, str(file), strict=False)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"--init {path}: {error}{_fitting(model, path)}") from None
    left = _layers_not_loaded(model, report)
    attention = [layer for layer in left if _is_attention(layer)]
    others = [layer.name for layer in left if layer not in attention and layer.name != CLASSIFIER]
    if others:
        raise InputError(
            f"--init {path} has another network than {model.name}: {len(others)} layers are not "
            f"in it or have another shape ({_some(others)}).{_fitting(model, path)}"
        )
    mean, std = _normalization(path, report, model.output_shape[-1])
    # A file with another attention has another function without it.
    loaded, absent = (_paths(model, report, keys) for keys in (report.loaded, report.missing))
    compensated = [
        layer.name
        for layer in attention
        if not report.unexpected and _compensate(layer, loaded, absent)
    ]
    return {
        "source": str(path),
        "sha256": files.sha256(file),
        "format": report.format,
        "loaded": len(report.loaded),
        "replaced": [layer.name for layer in left if layer.name == CLASSIFIER],
        "missing": [layer.name for layer in attention],
        "doubled_before": compensated,
        "mean": mean,
        "std": std,
        "unused": sorted(report.unexpected),
    }


def _config(path):
    """Returns the `config.json` of a run folder, or of the run folder of a .keras file, or {}."""
    folder = path.parent if path.suffix == ".keras" else path
    config = folder / files.CONFIG
    return files.read_json(config) if config.is_file() else {}


def _normalization(path, report, classes):
    """Returns the mean and std of the training of given weights, or (`None`, `None`)."""
    recipe = _config(path).get("recipe_settings")
    if recipe:
        return recipe["mean"], recipe["std"]
    of_biases = {theirs[0] for _, _, theirs in report.mismatched if len(theirs) == 1}
    if recipes.IMAGENET_CLASSES in (of_biases or {classes}):
        return recipes.IMAGENET_MEAN, recipes.IMAGENET_STD
    return None, None


def describe(found):
    """Returns the lines that say what `load` did."""
    lines = [f"{found['source']}: {found['loaded']} arrays loaded ({found['format']})"]
    if found["replaced"]:
        lines.append("The classifier is new: the number of classes differs.")
    if found["missing"]:
        lines.append(f"Not in the file, and new: {_some(found['missing'])}.")
    if found["doubled_before"]:
        lines.append(
            f"{len(found['doubled_before'])} new NAM gates begin at 0.5, and the scale before each "
            "was multiplied by 2 / gain: the network begins with the function of the file."
        )
    if found["unused"]:
        lines.append(f"In the file, and unused: {_some(found['unused'])}.")
    return lines


def _some(names):
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _paths(model, report, keys):
    """Returns the paths of the variables with some keys."""
    keys = set(keys)
    return {e.variable.path for e in weights.entries_of(model, report.format) if e.key in keys}


def _layers_not_loaded(model, report):
    loaded = _paths(model, report, report.loaded)
    return [layer for layer in model.layers if any(v.path not in loaded for v in layer.weights)]


def _is_attention(layer):
    # Every layer of keras_nam.attention says its name in PyTorch.
    return hasattr(layer, "torch_module")


def _compensate(layer, loaded, absent):
    """Makes the new gates of a NAM layer almost constant; returns whether it scaled.

    The normalization before it is multiplied by 2 / gain for each gate that the file does not have.
    A spatial gate for another image size is new, but the file has one. The gates' gamma is small:
    with a gamma of 1 the gates deviate from 0.5 enough to change the logits of r18 by 8%.
    """
    kinds = (keras_nam.NAMChannelAttention, keras_nam.NAMSpatialAttention)
    gates = [inner for inner in layer._flatten_layers() if isinstance(inner, kinds)]
    new = [gate for gate in gates if gate.gamma.path not in loaded]
    before = layer._inbound_nodes[0].parent_nodes[0].operation
    if not new or not isinstance(before, keras.layers.BatchNormalization):
        return False
    factor = math.prod(2 / gate.gain for gate in new if gate.gamma.path in absent)
    before.gamma.assign(factor * before.gamma)
    before.beta.assign(factor * before.beta)
    for gate in new:
        gate.gamma.assign(keras.ops.full_like(gate.gamma, GATE_GAMMA))
    # The statistics of the gates' inputs, which that normalization puts out.
    mean, variance = np.array(before.beta), np.square(before.gamma)
    for gate in gates:
        if isinstance(gate, keras_nam.NAMSpatialAttention):  # of all channels
            variance = (variance + mean**2).mean() - mean.mean() ** 2
            mean = mean.mean()
        if gate in new:
            gate.moving_mean.assign(np.broadcast_to(mean, gate.moving_mean.shape))
            gate.moving_variance.assign(np.broadcast_to(variance, gate.moving_variance.shape))
        elif gate is gates[0]:
            gate.moving_mean.assign(factor * gate.moving_mean)
            gate.moving_variance.assign(factor**2 * gate.moving_variance)
        half = gate.gain / 2  # a gate of 0.5
        mean, variance = half * mean, half**2 * variance
    return factor != 1


def _fitting(model, path):
    """Returns a hint at the network that fits: the run's, or the backbone of these weights."""
    config = _config(path)
    if "arch" in config:
        return f" It is a run of --arch {config['arch']} --stem {config['stem']}."
    try:
        contents = weights.read_checkpoint(str(path))
    except (ValueError, ImportError, OSError):
        return ""
    best = None
    for backbone in BACKBONES:  # the smaller one of a kind is part of the larger one
        found = _options(backbone, model.input_shape[1:], contents)
        if best and not found:
            break
        best = found or best
    return f" It fits {best}." if best else ""


def _options(backbone, image_shape, contents):
    """Returns the options of a backbone's network if a file has all its weights, else `None`."""

    def lacks(arch, stem):
        network = keras_nam.create_model(
            arch, input_shape=image_shape, stem=stem, include_top=False
        )
        selection = weights.find(network, contents)
        shapes = {key: tuple(array.shape) for key, array in selection.arrays.items()}
        entries = weights.entries_of(network, selection.format)
        return entries[0], shapes, [e for e in entries if shapes.get(e.key) != e.shape]

    try:
        stem_kernel, shapes, missing = lacks(backbone, "cifar")
        if not {entry.key for entry in missing} <= shapes.keys():
            return None
        axes = stem_kernel.layout.axes
        size, width = (shapes[stem_kernel.key][axes.index(axis)] for axis in (0, 3))
        stem = "cifar" if size == stem_kernel.variable.shape[0] else "imagenet"
        arch = backbone if width == BACKBONES[backbone].width else f"{backbone}w{width}"
        return None if lacks(arch, stem)[2] else f"--arch {arch} --stem {stem}"
    except ValueError:
        return None


def freeze(model, what):
    """Makes layers untrainable. A frozen normalization also keeps its moving statistics.

    The classifier and the attention layers are always trained: a NAM gate is a normalization too,
    but `bn` leaves it out.

    Args:
        model: A `keras.Model` of `keras_nam.create_model`.
        what: `"none"`, `"bn"`: the normalizations, `"backbone"`, or `"stages:N"`: the stem and
            the first N stages.

    Returns:
        The number of frozen layers that have weights.

    Raises:
        InputError: If the network has fewer stages.
    """
    kind, _, count = what.partition(":")
    stages = tuple(f"stage{number + 1}_" for number in range(int(count or 0)))
    if stages and not any(layer.name.startswith(stages[-1]) for layer in model.layers):
        raise InputError(f"--freeze {what}: {model.name} has fewer stages.")
    test = {
        "none": lambda layer: False,
        "bn": lambda layer: isinstance(layer, keras.layers.BatchNormalization),
        "backbone": lambda layer: True,
        "stages": lambda layer: layer.name.startswith(("stem_", *stages)),
    }[kind]
    frozen = 0
    for layer in model.layers:
        if layer.weights and layer.name != CLASSIFIER and not _is_attention(layer):
            layer.trainable = not test(layer)
            frozen += not layer.trainable
    return frozen


def is_frozen(model):
    """Whether some layers of a model are not trained."""
    return any(not layer.trainable for layer in model.layers)
