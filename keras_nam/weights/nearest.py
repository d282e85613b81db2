"""Which arch a checkpoint fits best, told from its keys without building a network."""

from keras_nam.attention import ATTENTIONS
from keras_nam.models import BACKBONES, list_archs, parse_arch
from keras_nam.models.mobilenet_v2 import STAGES
from keras_nam.weights import names


def describe(arrays):
    """Returns a sentence with the `create_model` call that fits best, or "" if nothing does."""
    owners = {key.rpartition(".")[0] for key in arrays}
    best, overlap, best_rows = None, 0.0, None
    for arch in list_archs():
        backbone, _, attention = parse_arch(arch)
        for rows in _rows(backbone):
            owned = {names.layer_name(path, rows) for path in _layers(backbone, attention)}
            similarity = len(owned & owners) / len(owned | owners)
            if similarity > overlap:
                best, overlap, best_rows = arch, similarity, rows
    return f"It fits {_call(arrays, best, best_rows)} best." if best else ""


def _rows(backbone):
    if _depths(backbone) is None:
        return [names.MOBILENET_V2]
    return [names.OFFICIAL, names.WEIAICUNZAI]


def _depths(backbone):
    return getattr(BACKBONES[backbone].features, "keywords", {}).get("depths")


def _layers(backbone, attention):
    """Yields the names of a network's layers that tell it from the others."""
    depths = _depths(backbone)
    if depths is None:
        depths, convolutions = [depth for _, _, depth, _ in STAGES], 3
        yield from ("head_conv", "head_bn")
    else:
        convolutions = len(BACKBONES[backbone].features.keywords["block"])
    yield from ("stem_conv", "stem_bn", "logits")
    parts = names.ATTENTIONS[attention].parts if attention else {}
    per_block = attention and ATTENTIONS[attention].place == "block"
    for stage, depth in enumerate(depths, start=1):
        for block in range(1, depth + 1):
            name = f"stage{stage}_block{block}"
            for number in range(1, convolutions + 1):
                yield from (f"{name}_conv{number}", f"{name}_bn{number}")
            if per_block:
                yield from (f"{name}_{attention}/{part}".rstrip("/") for part in parts)
        if not per_block and stage < len(depths):
            yield from (f"stage{stage}_{attention}/{part}" for part in parts)


def _call(arrays, arch, rows):
    """Returns the `create_model` call; the stem tells the width and kind, the bias the classes."""
    backbone, default_width, attention = parse_arch(arch)
    stem = getattr(arrays.get(f"{names.layer_name('stem_conv', rows)}.weight"), "shape", ())
    bias = getattr(arrays.get(f"{names.layer_name('logits', rows)}.bias"), "shape", ())
    width = f"w{stem[0]}" if stem and stem[0] != default_width else ""
    arguments = [repr(backbone + width + (f"_{attention}" if attention else ""))]
    if bias:
        arguments.append(f"num_classes={bias[0]}")
    if stem and stem[-1] == (3 if backbone == "mbv2" else 7):
        arguments.append("stem='imagenet'")
    return f"create_model({', '.join(arguments)})"
