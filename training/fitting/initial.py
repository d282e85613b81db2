"""The weights that a training begins with, and the layers that it freezes."""

import re
from pathlib import Path

import keras

import keras_nam
from keras_nam import weights
from keras_nam.models import BACKBONES, parse_arch
from training import recipes
from training.cli import InputError
from training.runs import files

CLASSIFIER = "logits"
FREEZE = "none, bn, backbone or stages:N"
NAMES_SHOWN = 3
GATE_GAMMA = 0.02  # of a gate that is new in a trained network


def load(model, source):
    """Loads the weights of a file or a run's best checkpoint into a network.

    The classifier is replaced if the number of classes differs. Attention layers that the file
    does not have stay as they were made, except for NAM gates. These begin at 0.5, so gamma and
    beta of the normalization before each are doubled: the network begins with the function of the
    file. The logits differ by less than 1%.

    Args:
        model: A `keras.Model` of `keras_nam.create_model`.
        source: Path of a file as `keras_nam.load_weights` reads it, or of a run folder.

    Returns:
        Dictionary for `config.json`: what was loaded, replaced, missing and unused.

    Raises:
        InputError: If the file cannot be read, or its network is another one.
    """
    path = Path(source)
    file = path / "best.keras" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InputError(f"--init {path}: expected a run folder with best.keras, or a file.")
    try:
        report = keras_nam.load_weights(model, str(file), strict=False)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"--init {path}: {error}{_fitting(model, path)}") from None
    left = _layers_not_loaded(model, report)
    attention = [layer for layer in left if _is_attention(model, layer)]
    others = [layer.name for layer in left if layer not in attention and layer.name != CLASSIFIER]
    if others:
        raise InputError(
            f"--init {path} has another network than {model.name}: {len(others)} layers are not "
            f"in it or have another shape ({_some(others)}).{_fitting(model, path)}"
        )
    # A file with another attention has another function without it.
    mean, std = _normalization(path, report)
    compensated = [a.name for a in attention if not report.unexpected and _compensate(a)]
    return {
        "source": str(path),
        "format": report.format,
        "loaded": len(report.loaded),
        "replaced": [layer.name for layer in left if layer.name == CLASSIFIER],
        "missing": [layer.name for layer in attention],
        "doubled_before": compensated,
        "mean": mean,
        "std": std,
        "unused": sorted(report.unexpected),
    }


def _normalization(path, report):
    """Returns the mean and std of the training of given weights, or (`None`, `None`)."""
    if path.is_dir():
        recipe = files.read_json(path / files.CONFIG)["recipe_settings"]
        return recipe["mean"], recipe["std"]
    if any(theirs[:1] == (recipes.IMAGENET_CLASSES,) for _, _, theirs in report.mismatched):
        return recipes.IMAGENET_MEAN, recipes.IMAGENET_STD
    return None, None


def describe(found):
    """Returns the lines that say what `load` did."""
    lines = [f"{found['source']}: {found['loaded']} arrays loaded ({found['format']})"]
    if found["replaced"]:
        lines.append("The classifier begins anew: the number of classes differs.")
    if found["missing"]:
        lines.append(f"Not in the file, and new: {_some(found['missing'])}.")
    if found["doubled_before"]:
        lines.append(
            f"{len(found['doubled_before'])} new NAM gates begin at 0.5, and the scale before each "
            "was doubled: the network begins with the function of the file's."
        )
    if found["unused"]:
        lines.append(f"In the file, and unused: {_some(found['unused'])}.")
    return lines


def _some(names):
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _layers_not_loaded(model, report):
    loaded = set(report.loaded)
    left = {
        e.variable.path for e in weights.entries_of(model, report.format) if e.key not in loaded
    }
    return [layer for layer in model.layers if any(v.path in left for v in layer.variables)]


def _is_attention(model, layer):
    attention = parse_arch(model.name)[2]
    return attention is not None and layer.name.endswith(f"_{attention}")


def _compensate(layer):
    """Makes a new NAM layer almost the identity; returns whether it is one that can be.

    The normalization before it is doubled, once a gate, and the gates' gamma is small: with a
    gamma of 1 the gates deviate from 0.5 enough to change the logits of r18 by 8%.
    """
    gates = [
        inner
        for inner in layer._flatten_layers()
        if isinstance(inner, (keras_nam.NAMChannelAttention, keras_nam.NAMSpatialAttention))
    ]
    before = layer._inbound_nodes[0].parent_nodes[0].operation
    if not gates or not isinstance(before, keras.layers.BatchNormalization):
        return False
    for gate in gates:
        gate.gamma.assign(keras.ops.full_like(gate.gamma, GATE_GAMMA))
        before.gamma.assign(2 * before.gamma)
        before.beta.assign(2 * before.beta)
    if isinstance(gates[0], keras_nam.NAMChannelAttention):
        # The statistics of its inputs, which that normalization puts out.
        gates[0].moving_mean.assign(before.beta)
        gates[0].moving_variance.assign(keras.ops.square(before.gamma))
    return True


def _fitting(model, path):
    """Returns a hint at the arch that fits: the run's, or the one with the most weights in it."""
    config = path / files.CONFIG
    if config.is_file():
        return f" It is a run of {files.read_json(config)['arch']}."
    _, width, _ = parse_arch(model.name)
    found = {}
    for arch in (*BACKBONES, *(f"{backbone}w{width}" for backbone in BACKBONES)):
        other = keras_nam.create_model(arch, model.output_shape[-1], model.input_shape[1:])
        try:
            selection = weights.find(other, str(path))
        except (ValueError, ImportError, OSError):
            return ""
        shapes = {key: tuple(array.shape) for key, array in selection.arrays.items()}
        entries = list(weights.entries_of(other, selection.format))
        fits = sum(shapes.get(entry.key) == tuple(entry.shape) for entry in entries)
        found[arch] = fits / len(entries)
    best = max(found, key=found.get)
    return f" --arch {best} fits it best." if found[best] > 0.9 else ""


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
    """
    stages = re.fullmatch(r"stages:(\d+)", what)
    tests = {
        "none": lambda layer: False,
        "bn": lambda layer: isinstance(layer, keras.layers.BatchNormalization),
        "backbone": lambda layer: True,
    }
    if stages:
        names = ("stem", *(f"stage{number + 1}_" for number in range(int(stages[1]))))
        test = lambda layer: layer.name.startswith(names)  # noqa: E731
    elif what in tests:
        test = tests[what]
    else:
        raise InputError(f"--freeze {what}: expected {FREEZE}.")
    frozen = 0
    for layer in model.layers:
        if layer.weights and layer.name != CLASSIFIER and not _is_attention(model, layer):
            layer.trainable = not test(layer)
            frozen += not layer.trainable
    if stages and not any(layer.name.startswith(f"stage{stages[1]}_") for layer in model.layers):
        raise InputError(f"--freeze {what}: {model.name} has fewer stages.")
    return frozen


def is_frozen(model):
    """Whether some layers of a model are not trained."""
    return any(not layer.trainable for layer in model.layers)
