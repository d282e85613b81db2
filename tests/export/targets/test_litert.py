"""From a SavedModel to LiteRT: the answers, what is quantized, and what is refused."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from export.runtime.local_models import LiteRTModel
from export.targets import litert
from export.verification.classifier import classifier
from tests.support.networks import toys
from training.cli import InputError

BATCHES = (1, 3, 64, 3, 1)
OPERATORS = {"ADD": 16, "CONV_2D": 20, "FULLY_CONNECTED": 1, "LOGISTIC": 8, "MEAN": 1, "MUL": 17,
             "PAD": 3, "SOFTMAX": 1, "SUB": 1}  # fmt: skip


@pytest.fixture(scope="module")
def images(source):
    """float32 [64, 32, 32, 3] in 0–255."""
    return source.dataset.test.images[:64].astype(np.float32)


def graph_of(path):
    """Returns the only graph of a file, and the buffers that its tensors name."""
    model = flatbuffer_utils.read_model(path)
    (graph,) = model.subgraphs
    return graph, model.buffers


def kernels(path):
    """Returns the tensors of the convolutions' and dense layers' kernels."""
    model = flatbuffer_utils.read_model(path)
    (graph,) = model.subgraphs
    return [
        graph.tensors[operator.inputs[1]]
        for operator in graph.operators
        if flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        in ("CONV_2D", "FULLY_CONNECTED")
    ]


def of_type(graph, name):
    """Returns the numbers of a graph's tensors of a type."""
    return {
        number
        for number, tensor in enumerate(graph.tensors)
        if flatbuffer_utils.type_to_name(tensor.type) == name
    }


# Parts of the largest logit. Seen: 4e-7, 9e-4 and 0.02. Folding alone makes some difference, and so
# does rounding weights.
@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 0, 2e-6), ("float16", 5e-5, 3e-3), ("int8", 3e-3, 0.06)],
)
def test_answers_in_batches_of_any_size(source, litert_files, images, precision, least, most):
    model = LiteRTModel(litert_files[precision])
    declared = model.signatures()
    assert list(declared) == ["serving_default"]
    assert declared["serving_default"].inputs == {"image": (None, 32, 32, 3)}
    outputs = {"logits": (None, 10), "probabilities": (None, 10)}
    assert declared["serving_default"].outputs == outputs
    true_logits = source.evaluate(images)
    differences, largest = [], np.abs(true_logits).max()
    for size in BATCHES:
        logits, probabilities = model.predict(images[-size:])
        differences.append(np.abs(logits - true_logits[-size:]).max() / largest)
        softmax = keras.ops.softmax(logits)
        # int8 has steps of 1/256 for probabilities.
        atol = 5e-3 if precision == "int8" else 1e-6
        np.testing.assert_allclose(probabilities, softmax, rtol=0, atol=atol)
    assert max(differences) <= most
    assert differences[2] >= least


def test_operators(litert_files):
    found = {name: litert.operators(path.read_bytes()) for name, path in litert_files.items()}
    assert found["float32"] == OPERATORS
    assert list(found["float32"]) == sorted(OPERATORS)
    # One for each kernel, bias, and other constant vector.
    assert found["float16"].pop("DEQUANTIZE") == 60
    assert found["float16"] == OPERATORS
    assert found["int8"] == OPERATORS | {"QUANTIZE": 1, "DEQUANTIZE": 2}


def test_float16_has_no_constant_of_float32(litert_files):
    graph, buffers = graph_of(litert_files["float16"])
    assert len(of_type(graph, "FLOAT16")) == 60
    assert all(
        buffers[graph.tensors[number].buffer].data is None for number in of_type(graph, "FLOAT32")
    )


def test_int8_computes_in_int8_with_a_scale_for_each_output_channel(litert_files):
    graph, _ = graph_of(litert_files["int8"])
    assert of_type(graph, "FLOAT32") == {*graph.inputs, *graph.outputs}
    found = kernels(litert_files["int8"])
    assert len(found) == 21
    for kernel in found:
        assert flatbuffer_utils.type_to_name(kernel.type) == "INT8"
        assert len(kernel.quantization.scale) == kernel.shape[0] > 1
        assert not np.any(kernel.quantization.zeroPoint)


def test_int8_ranges_are_measured_on_the_images_and_nothing_is_printed(tmp_path, capfd):
    toys.save_savedmodel(tmp_path / "toy")
    path = tmp_path / "model.tflite"
    for brightest in (255.0, 51.0):
        images = np.random.default_rng(0).uniform(0, brightest, (4, 32, 32, 3)).astype(np.float32)
        images[0, 0, 0] = 0, brightest, 0
        capfd.readouterr()
        toys.save_litert(path, tmp_path / "toy", "int8", images)
        LiteRTModel(path).predict(images)
        assert capfd.readouterr() == ("", "")
        graph, _ = graph_of(path)
        quantized = graph.tensors[graph.operators[0].outputs[0]].quantization
        np.testing.assert_allclose(quantized.scale, [brightest / 255], rtol=1e-6)
        assert list(quantized.zeroPoint) == [-128]
    os.write(2, b"after it")
    assert capfd.readouterr().err == "after it"


def determinants(image):
    """Uses an operation that LiteRT has only in its extension by TensorFlow's operations."""
    colour = tf.reduce_mean(image, (1, 2))
    return colour * tf.linalg.det(colour[:, :, None] * colour[:, None, :] + tf.eye(3))[:, None]


@pytest.mark.parametrize("precision", litert.PRECISIONS)
def test_an_operation_that_litert_does_not_have(tmp_path, images, precision, capfd):
    spec = tf.TensorSpec((None, 32, 32, 3), tf.float32, "picture")
    functions = {"classify": (lambda picture: {"scores": determinants(picture)}, spec)}
    classify = classifier(toys.save_functions(tmp_path / "det", **functions))
    capfd.readouterr()
    with pytest.raises(InputError, match=r"LiteRT: 'tf\.MatrixDeterminant' op") as caught:
        litert.convert(classify, precision, images[:2])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
