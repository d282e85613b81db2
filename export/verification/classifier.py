"""The classifier in a SavedModel, under the project's names whatever its own are."""

import tensorflow as tf

from export.runtime.preprocessing import UNCHANGED
from export.runtime.rest import one_line
from export.runtime.signatures import IMAGE, Scores, are_probabilities
from training.cli import InputError

SIZE = IMAGE.shape[1:]
LEAST_PROBABILITY = 1e-37  # the logarithm of 0 is not finite


def classifier(folder, preprocessing=UNCHANGED):
    """Returns the classifier in a SavedModel, whatever its signature's names.

    The signature is `serving_default`, or the only one. It must take one image, float32
    [N, 32, 32, 3], and give `logits` and `probabilities`, or one output [N, classes].

    Args:
        folder: Path of the SavedModel.
        preprocessing: `Preprocessing` that is put before it.

    Returns:
        A `tf.function`, image of 0–255 to a dictionary of `logits` and `probabilities`. Its
        attribute `network` is the same without the preprocessing.

    Raises:
        InputError: If it is damaged, or its signatures are others; the message has them.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # a damaged file raises whatever its reader runs into
        raise InputError(f"{folder} is a damaged SavedModel: {one_line(str(error))}") from None
    signatures = dict(loaded.signatures)
    name = next(iter(signatures)) if len(signatures) == 1 else IMAGE.signature
    signature = signatures.get(name)
    if signature is None:
        raise InputError(
            f"{folder} has no signature {IMAGE.signature} (it has: "
            f"{', '.join(sorted(signatures)) or 'none'})"
        )
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    if len(inputs) != 1 or not _is_image(*inputs.values()) or not _are_scores(outputs):
        raise InputError(
            f"{folder} takes {_text(inputs)} and gives {_text(outputs)}; "
            f"expected one image, float32 {list(IMAGE.shape)}, and {' and '.join(Scores._fields)}, "
            "or one output [None, classes]"
        )
    (input_name,) = inputs
    give = _as_scores(signature, input_name, outputs, preprocessing)

    def network(image):
        return give(signature(**{input_name: image}))

    @tf.function(input_signature=[tf.TensorSpec([None, *SIZE], tf.float32, name=IMAGE.name)])
    def classify(image):
        return network(preprocessing(image))

    classify.loaded = loaded  # which keeps the variables alive
    classify.network = network
    return classify


def _is_image(spec):
    return spec.dtype == tf.float32 and spec.shape.is_compatible_with([None, *SIZE])


def _as_scores(signature, input_name, outputs, preprocessing):
    """Returns the function from a signature's outputs to `logits` and `probabilities`.

    A single output is taken for probabilities if its rows are, else for logits.
    """
    if set(Scores._fields) <= set(outputs):
        return lambda found: {name: found[name] for name in Scores._fields}
    (name,) = outputs
    probe = tf.random.stateless_uniform([8, *SIZE], seed=(0, 0), maxval=255.0)
    if are_probabilities(signature(**{input_name: preprocessing(probe)})[name]):
        return lambda found: {
            "logits": tf.math.log(tf.maximum(found[name], LEAST_PROBABILITY)),
            "probabilities": found[name],
        }
    return lambda found: {"logits": found[name], "probabilities": tf.nn.softmax(found[name])}


def _are_scores(specs):
    if set(Scores._fields) <= set(specs):
        wanted = [specs[name] for name in Scores._fields]
    else:
        wanted = list(specs.values()) if len(specs) == 1 else []
    return bool(wanted) and all(s.dtype == tf.float32 and s.shape.rank == 2 for s in wanted)


def _text(specs):
    return ", ".join(f"{n} {s.dtype.name} {s.shape}" for n, s in sorted(specs.items()))
