"""What a model takes and returns: its signatures, and the scores of pictures."""

from typing import NamedTuple

import numpy as np

from training.cli import InputError
from training.data.sources import SIZE


class Input(NamedTuple):
    """An input of a model; `None` in `shape` is any length."""

    signature: str
    name: str
    shape: tuple


class Signature(NamedTuple):
    """The inputs and outputs that a model declares: name -> shape (`None`: any rank)."""

    inputs: dict
    outputs: dict


class Scores(NamedTuple):
    """What a model returns: two float32 arrays of shape [N, classes]."""

    logits: np.ndarray
    probabilities: np.ndarray


IMAGE = Input("serving_default", "image", (None, None, None, 3))
IMAGE_BYTES = Input("serving_bytes", "image_bytes", (None,))
OUTPUT_SHAPE = (None, None)


def shape_of(lengths):
    """Returns a shape, with `None` for a length that is not fixed: a name in ONNX, else -1."""
    fixed = (n if isinstance(n, int) and n >= 0 else None for n in lengths or ())
    return None if lengths is None else tuple(fixed)


class Samples:
    """Arrays by input name with equal first lengths; sliced and counted like one array."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index):
        return Samples({name: array[index] for name, array in self.arrays.items()})


def feeds(batch):
    """Returns input name -> array of a batch: images [N, H, W, 3], or `Samples`."""
    if isinstance(batch, Samples):
        return batch.arrays
    return {IMAGE.name: np.asarray(batch, np.float32)}


def input_of(pictures):
    """Returns `IMAGE_BYTES` for a list of `bytes`, else `IMAGE`."""
    return IMAGE_BYTES if any(isinstance(picture, bytes) for picture in pictures) else IMAGE


def image_size(signatures, wanted, source, usual=SIZE):
    """Returns the height and width, in pixels, of the images for a model.

    Args:
        signatures: Dictionary name -> `Signature`, what the model has.
        wanted: The `Input` that will be sent.
        source: Name of the model, for the message.
        usual: Height and width for a model that takes any.

    Raises:
        InputError: If the model takes something else, or does not return `Scores`.
    """
    if wanted.signature not in signatures:
        found = ", ".join(sorted(signatures)) or "none"
        raise InputError(f"{source} has no signature {wanted.signature} (it has: {found})")
    declared = signatures[wanted.signature]
    inputs_fit = declared.inputs.keys() == {wanted.name} and fits(
        declared.inputs[wanted.name], wanted.shape
    )
    outputs_fit = all(
        name in declared.outputs and fits(declared.outputs[name], OUTPUT_SHAPE)
        for name in Scores._fields
    )
    if not (inputs_fit and outputs_fit):
        raise InputError(
            f"{source} is another kind of model: {_text(declared.inputs)} → "
            f"{_text(declared.outputs)}; expected {_text({wanted.name: wanted.shape})} → "
            f"{_text(dict.fromkeys(Scores._fields, OUTPUT_SHAPE))}"
        )
    shape = declared.inputs[wanted.name] or wanted.shape
    return tuple(fixed or own for fixed, own in zip(shape[1:3], usual, strict=False))


def scores(outputs, count, source):
    """Returns the `Scores` in a model's outputs.

    Args:
        outputs: Dictionary name -> numbers, nested lists or an array.
        count: Number of pictures that were sent.
        source: Name of the model, for the message.

    Raises:
        InputError: If an output is missing, or is not a table with a row for each picture.
    """
    try:
        found = Scores(*(np.asarray(outputs[name], np.float32) for name in Scores._fields))
    except KeyError as missing:
        raise InputError(
            f"{source} returns {', '.join(sorted(outputs)) or 'nothing'}, without {missing}"
        ) from None
    except (TypeError, ValueError):
        raise InputError(
            f"{source} returns {' and '.join(Scores._fields)} that are not tables of numbers"
        ) from None
    shapes = [array.shape for array in found]
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or shapes[0][0] != count:
        raise InputError(
            f"{source} returns logits of shape {shapes[0]} and probabilities of shape"
            f" {shapes[1]} for {count} pictures"
        )
    return found


def fits(declared, wanted):
    """Whether two shapes are compatible. `None` is any length, and in `declared` also any rank."""
    if declared is None:
        return True
    return len(declared) == len(wanted) and all(
        ours == theirs or None in (ours, theirs)
        for ours, theirs in zip(wanted, declared, strict=True)
    )


def _text(tensors):
    return ", ".join(
        f"{name} [?]" if shape is None else f"{name} [{','.join(str(d or 'N') for d in shape)}]"
        for name, shape in sorted(tensors.items())
    )
