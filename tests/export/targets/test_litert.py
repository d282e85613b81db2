"""From a SavedModel to LiteRT: the answers, what is quantized, and what is refused."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from export import random_run
from export.runtime.local_models import LiteRTModel
from export.targets import litert
from tests.support import toys
from training.cli import InputError
from training.data import streams

BATCHES = (1, 3, 64, 3, 1)
OPERATORS = {"ADD": 16, "CONV_2D": 20, "FULLY_CONNECTED": 1, "LOGISTIC": 8, "MEAN": 1, "MUL": 17,
             "PAD": 3, "SOFTMAX": 1, "SUB": 1}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    return streams.load("synthetic")


@pytest.fixture(scope="module")
def images(dataset):
    """float32 [64, 32, 32, 3] in 0–255."""
    return dataset.test.images[:64].astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return random_run.make(tmp_path_factory.mktemp("litert") / "run")


@pytest.fixture(scope="module")
def true_logits(run, images):
    """What the unfolded Keras model gives."""
    model = keras.models.load_model(run / "best.keras", compile=False)
    recipe = random_run.RECIPE
    return model(streams.normalize(images, recipe.mean, recipe.std), training=False).numpy()


@pytest.fixture(scope="module")
def files(run, dataset, tmp_path_factory):
    """Precision -> path, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("files")
    calibration = dataset.train.images[:64].astype(np.float32)
    paths = {}
    for precision in litert.PRECISIONS:
        content = litert.convert(run / "saved_model" / "1", precision, calibration)
        paths[precision] = folder / precision / "model.tflite"
        paths[precision].parent.mkdir()
        paths[precision].write_bytes(content)
    return paths


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
def test_answers_in_batches_of_any_size(files, images, true_logits, precision, least, most):
    model = LiteRTModel(files[precision])
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


@pytest.mark.parametrize("precision", litert.PRECISIONS)
def test_signature(files, precision):
    declared = LiteRTModel(files[precision]).signatures()
    assert list(declared) == ["serving_default"]
    assert declared["serving_default"].inputs == {"image": (None, 32, 32, 3)}
    outputs = {"logits": (None, 10), "probabilities": (None, 10)}
    assert declared["serving_default"].outputs == outputs
    graph, _ = graph_of(files[precision])
    assert {*graph.inputs, *graph.outputs} <= of_type(graph, "FLOAT32")


def test_operators(files):
    found = {precision: litert.operators(path.read_bytes()) for precision, path in files.items()}
    assert found["float32"] == OPERATORS
    assert list(found["float32"]) == sorted(OPERATORS)
    # One for each kernel, bias, and other constant vector.
    assert found["float16"].pop("DEQUANTIZE") == 60
    assert found["float16"] == OPERATORS
    assert found["int8"] == OPERATORS | {"QUANTIZE": 1, "DEQUANTIZE": 2}


def test_float16_has_no_constant_of_float32(files):
    graph, buffers = graph_of(files["float16"])
    assert len(of_type(graph, "FLOAT16")) == 60
    assert all(
        buffers[graph.tensors[number].buffer].data is None for number in of_type(graph, "FLOAT32")
    )


def test_int8_computes_in_int8_with_a_scale_for_each_output_channel(files):
    graph, _ = graph_of(files["int8"])
    assert of_type(graph, "FLOAT32") == {*graph.inputs, *graph.outputs}
    found = kernels(files["int8"])
    assert len(found) == 21
    for kernel in found:
        assert flatbuffer_utils.type_to_name(kernel.type) == "INT8"
        assert len(kernel.quantization.scale) == kernel.shape[0] > 1
        assert not np.any(kernel.quantization.zeroPoint)


@pytest.mark.parametrize("brightest", [255.0, 51.0])
def test_int8_ranges_are_those_of_the_images(run, tmp_path, brightest):
    images = np.random.default_rng(0).uniform(0, brightest, (4, 32, 32, 3)).astype(np.float32)
    images[0, 0, 0] = 0, brightest, 0
    path = tmp_path / "model.tflite"
    path.write_bytes(litert.convert(run / "saved_model" / "1", "int8", images))
    graph, _ = graph_of(path)
    quantized = graph.tensors[graph.operators[0].outputs[0]].quantization
    np.testing.assert_allclose(quantized.scale, [brightest / 255], rtol=1e-6)
    assert list(quantized.zeroPoint) == [-128]


def test_nothing_is_printed(run, images, tmp_path, capfd):
    content = litert.convert(run / "saved_model" / "1", "int8", images[:2])
    (tmp_path / "model.tflite").write_bytes(content)
    LiteRTModel(tmp_path / "model.tflite").predict(images)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"after it")
    assert capfd.readouterr().err == "after it"


def save(folder, logits_of):
    """Saves a classifier of the mean colour [N, 3] with one output, under names of its own."""
    image = tf.TensorSpec((None, 32, 32, 3), tf.float32, "picture")

    @tf.function(input_signature=[image])
    def classify(picture):
        return {"scores": logits_of(tf.reduce_mean(picture, (1, 2)))}

    tf.saved_model.save(tf.Module(), str(folder), signatures={"classify": classify})


def test_a_saved_model_with_other_names(tmp_path, images):
    save(tmp_path / "other", lambda colour: colour / 255 @ toys.WEIGHTS)
    path = tmp_path / "model.tflite"
    path.write_bytes(litert.convert(tmp_path / "other", "float32"))
    expected = [toys.logits_of(image) for image in images[:3]]
    # float32 sums over 1,024 pixels
    np.testing.assert_allclose(LiteRTModel(path).predict(images[:3]).logits, expected, atol=1e-5)


def determinants(colour):
    """An operation of TensorFlow that is none of LiteRT's, but of its extension by TensorFlow's."""
    return colour * tf.linalg.det(colour[:, :, None] * colour[:, None, :] + tf.eye(3))[:, None]


@pytest.mark.parametrize("precision", litert.PRECISIONS)
def test_an_operation_that_litert_has_not(tmp_path, images, precision, capfd):
    save(tmp_path / "det", determinants)
    message = r"det has no LiteRT form: 'tf\.MatrixDeterminant' op"
    with pytest.raises(InputError, match=message) as caught:
        litert.convert(tmp_path / "det", precision, images[:2])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_saved_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="is a damaged SavedModel"):
        litert.convert(tmp_path, "float32")
