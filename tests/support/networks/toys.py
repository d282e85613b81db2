"""A toy classifier whose answers are known, as a SavedModel and as an ONNX file."""

import json

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

LABELS = ["apple", "bear", "chair", "dolphin", "elm"]
LABELS_JSON = json.dumps(LABELS)
# From the mean colour, as a part of 255, to the logits.
WEIGHTS = np.random.default_rng(1).normal(0, 3, (3, 5)).astype(np.float32)


def logits_of(image):
    """Returns the logits that the toys give an image of shape [32, 32, 3]."""
    return (image.astype(np.float64) / 255).mean(axis=(0, 1)) @ WEIGHTS


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


class Toy(tf.Module):
    """The signatures of a run's SavedModel; the image may be of another size."""

    def __init__(self, size=32):
        super().__init__()
        self.weights = tf.Variable(WEIGHTS)
        self.size = size

    def image(self, image):
        image = tf.ensure_shape(image, (None, self.size, self.size, 3))
        logits = tf.reduce_mean(tf.cast(image, tf.float32) / 255, axis=(1, 2)) @ self.weights
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    def image_bytes(self, image_bytes):
        def decode(data):
            picture = tf.io.decode_image(data, 3, expand_animations=False)
            return tf.image.resize(picture, (self.size, self.size), antialias=True)

        shape = tf.TensorSpec((self.size, self.size, 3), tf.float32)
        return self.image(tf.map_fn(decode, image_bytes, fn_output_signature=shape))


def save_savedmodel(folder, labels=LABELS, size=32, with_bytes=True, dtype=tf.float32):
    """Saves the toy in `folder`, with or without the signature `serving_bytes`."""
    toy = Toy(size)
    image = tf.TensorSpec((None, size, size, 3), dtype, "image")
    image_bytes = tf.TensorSpec((None,), tf.string, "image_bytes")
    signatures = {"serving_default": tf.function(toy.image, input_signature=[image])}
    if with_bytes:
        signatures["serving_bytes"] = tf.function(toy.image_bytes, input_signature=[image_bytes])
    tf.saved_model.save(toy, str(folder), signatures=signatures)
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "labels.txt").write_text("\n".join(labels) + "\n")


def save_onnx(path, class_names=LABELS_JSON, size=32):
    """Saves the toy as an ONNX file; `class_names` is a text of its metadata, or `None`."""
    constants = {"scale": np.float32(255), "weights": WEIGHTS}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 5])
        for name in ("logits", "probabilities")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["image", "scale"], ["scaled"]),
            helper.make_node("ReduceMean", ["scaled"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", size, size, 3])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if class_names is not None:
        helper.set_model_props(model, {"class_names": class_names})
    onnx.save(model, path)


def save_functions(folder, **functions):
    """Writes a SavedModel: signature name -> (function, spec of its input). Returns the folder."""
    module = tf.Module()
    signatures = {
        name: tf.function(function, input_signature=[spec])
        for name, (function, spec) in functions.items()
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


def save_litert(path, folder, precision="float32", images=None):
    """Converts a SavedModel, such as the toy's, to a LiteRT file."""
    from export.targets import litert
    from export.verification.classifier import classifier

    path.write_bytes(litert.convert(classifier(folder), precision, images))
