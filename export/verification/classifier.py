"""The classifier in a SavedModel, under this project's names for its inputs and outputs."""

import tensorflow as tf

from export.runtime.native_log import one_line
from export.runtime.preprocessing import UNCHANGED
from export.runtime.signatures import IMAGE, Scores
from export.runtime.single_output import LEAST_PROBABILITY, kind_of
from training.cli import InputError
from training.data.sources import SIZE
from training.runs import saved_model

ADVICE = (
    "Export its Keras model with --keras FILE.keras, or write a SavedModel whose outputs have the "
    "names logits and probabilities"
)


def classifier(folder, preprocessing=UNCHANGED, any_size=SIZE):
    """Returns the classifier in a SavedModel, whatever the names in its signature.

    The signature is `serving_default`, or the only one. It must take one image, float32
    [N, H, W, 3], and return `logits` and `probabilities`, or one output [N, classes].

    Args:
        folder: Path of the SavedModel.
        preprocessing: `Preprocessing` that is put before it.
        any_size: Height and width for a model that takes any, pixels.

    Returns:
        A `tf.function`, image of 0–255 to a dictionary of `logits` and `probabilities`. Its
        attributes are `network`, the same without the preprocessing, `loaded`, the SavedModel,
        and `image_shape`, the height, width and channels of an image.

    Raises:
        InputError: If it is damaged, its signatures do not fit, or it cannot be found out whether
            its one output is logits or probabilities.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # a damaged file raises whatever its reader runs into
        raise InputError(f"{folder} is a damaged SavedModel: {one_line(error)}") from None
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
            f"{folder} takes {_text(inputs)} and returns {_text(outputs)}; "
            f"expected one image, float32 {list(IMAGE.shape)}, and {' and '.join(Scores._fields)}, "
            "or one output [None, classes]"
        )
    ((input_name, spec),) = inputs.items()
    declared = spec.shape.as_list() if spec.shape.rank else IMAGE.shape
    shape = *(fixed or own for fixed, own in zip(declared[1:3], any_size, strict=True)), 3
    probe = tf.random.stateless_uniform([8, *shape], seed=(0, 0), maxval=255.0)
    to_scores = _to_scores(
        outputs, lambda: signature(**{input_name: preprocessing(probe)}), str(folder)
    )

    def network(image):
        return to_scores(signature(**{input_name: image}))

    @tf.function(input_signature=[tf.TensorSpec([None, *shape], tf.float32, name=IMAGE.name)])
    def classify(image):
        return network(preprocessing(image))

    classify.loaded = loaded  # which keeps the variables alive
    classify.network = network
    classify.image_shape = shape
    return classify


def _is_image(spec):
    return spec.dtype == tf.float32 and spec.shape.is_compatible_with(IMAGE.shape)


def _to_scores(outputs, probe, source):
    """Returns the function from a signature's outputs to `logits` and `probabilities`.

    What a single output is, `kind_of` finds out by its rows for some images.
    """
    if set(Scores._fields) <= set(outputs):
        return lambda found: {name: found[name] for name in Scores._fields}
    (name,) = outputs
    read = READ[kind_of(probe()[name], source, advice=ADVICE)]
    return lambda found: read(found[name])


def of_logits(outputs):
    """Returns `logits` and `probabilities` of logits; one column is the second of two classes."""
    if outputs.shape[-1] == 1:
        outputs = tf.concat([tf.zeros_like(outputs), outputs], -1)
    return saved_model.scores(outputs)


def of_probabilities(outputs):
    """Returns the same of probabilities; the logits are their logarithms."""
    if outputs.shape[-1] == 1:
        outputs = tf.concat([1 - outputs, outputs], -1)
    logits = tf.math.log(tf.maximum(outputs, LEAST_PROBABILITY))
    return {"logits": logits, "probabilities": outputs}


READ = {"logits": of_logits, "probabilities": of_probabilities}


def _are_scores(specs):
    if set(Scores._fields) <= set(specs):
        specs = {name: specs[name] for name in Scores._fields}
    elif len(specs) != 1:
        return False
    return all(spec.dtype == tf.float32 and spec.shape.rank == 2 for spec in specs.values())


def _text(specs):
    return ", ".join(f"{n} {s.dtype.name} {s.shape}" for n, s in sorted(specs.items()))
