"""Float16 and int8: what the graph is made of, how near its answers are, and what is refused."""

import logging
import tempfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.targets import quantization
from tests.support import random_run
from tests.support.onnx_models import (
    answers,
    constants,
    dequantized_input,
    of_kind,
    operators_that_run,
    producers,
    range_of_the_image,
    types,
    with_factor,
    with_statistics,
    with_weight,
)
from training.cli import FailedError, InputError


@pytest.fixture(scope="module")
def images(source):
    return source.dataset.train.images[:64].astype(np.float32)


@pytest.fixture(scope="module")
def models(float32_onnx, images, tmp_path_factory):
    """Precision -> model. The conversions change neither their argument nor leave files."""
    folder = tmp_path_factory.mktemp("temporary")
    before = float32_onnx.SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        made = {
            "float16": quantization.to_float16(float32_onnx, images),
            "int8": quantization.to_int8(float32_onnx, images),
        }
    assert float32_onnx.SerializeToString() == before
    assert list(folder.iterdir()) == []
    assert logging.root.manager.disable == logging.NOTSET
    return made


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_all_but_the_numbers_is_kept(float32_onnx, models, precision):
    model = models[precision]
    onnx.checker.check_model(model, full_check=True)
    for field in ("input", "output", "name"):
        assert getattr(model.graph, field) == getattr(float32_onnx.graph, field)
    for field in ("metadata_props", "opset_import", "ir_version", "producer_name"):
        assert getattr(model, field) == getattr(float32_onnx, field)
    names = {node.name for node in float32_onnx.graph.node}
    missing = names - {node.name for node in model.graph.node}
    relus = {node.name for node in of_kind(float32_onnx, "Relu")}
    assert missing == (relus if precision == "int8" else set())


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch(models, images, precision, batch):
    logits, probabilities = answers(models[precision], images[:batch])
    assert logits.shape == probabilities.shape == (batch, 10)
    assert logits.dtype == probabilities.dtype == np.float32
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    # In 8 bits they would be off by 2e-3, in float16 by 2e-4.
    np.testing.assert_allclose(probabilities, expected, atol=2e-6)


# Of six networks of random weights, the worst had half of this. Half of the weights and a quarter
# would be 0.5 and 0.25 of the size; the rest is names, a large part of a small file.
@pytest.mark.parametrize(
    ("precision", "rms", "agreement", "size"),
    [("float16", 1e-3, 1.0, 0.6), ("int8", 0.08, 0.98, 0.37)],
)
def test_answers_are_near(source, float32_onnx, models, precision, rms, agreement, size):
    assert models[precision].ByteSize() < size * float32_onnx.ByteSize()
    test = source.dataset.test.images
    (expected, _), (logits, _) = answers(float32_onnx, test), answers(models[precision], test)
    assert np.sqrt(np.mean((logits - expected) ** 2)) < rms * expected.std()
    assert np.mean(logits.argmax(-1) == expected.argmax(-1)) >= agreement


def test_float16_weights(float32_onnx, models):
    before, after = constants(float32_onnx), constants(models["float16"])
    kernels = [node.input[1] for kind in ("Conv", "MatMul") for node in of_kind(float32_onnx, kind)]
    assert len(kernels) == 21
    for name in kernels:
        np.testing.assert_array_equal(after[name], before[name].astype(np.float16))
        assert after[name].dtype == np.float16


def test_float16_leaves_gates_image_and_logits_in_float32(models):
    model = models["float16"]
    found = types(model)
    arrays = constants(model)
    made = producers(model)
    assert {found[node.output[0]] for node in of_kind(model, "Conv")} == {TensorProto.FLOAT16}
    assert {found[node.output[0]] for node in of_kind(model, "Relu")} == {TensorProto.FLOAT16}
    sigmoids = of_kind(model, "Sigmoid")
    assert len(sigmoids) == 8
    for sigmoid in sigmoids:
        normalization = made[sigmoid.input[0]]
        assert {arrays[name].dtype for name in normalization.input[1:]} == {np.dtype("float32")}
        (product,) = (node for node in of_kind(model, "Mul") if sigmoid.output[0] in node.input)
        names = [*product.input, *product.output, *sigmoid.input]
        assert {found[name] for name in names} == {TensorProto.FLOAT}
    # Pixels are not rounded before they are normalized, nor logits after the last sum.
    assert "image" in of_kind(model, "Mul")[0].input
    assert found[of_kind(model, "Sub")[0].output[0]] == TensorProto.FLOAT
    assert found[of_kind(model, "Softmax")[0].input[0]] == TensorProto.FLOAT
    last_sum = of_kind(model, "Add")[-1]
    assert {arrays[name].dtype for name in last_sum.input if name in arrays} == {
        np.dtype("float32")
    }


def test_the_largest_weights_of_float16(float32_onnx, images):
    for value in (-65505.0, np.inf):
        model, name = with_weight(float32_onnx, value)
        with pytest.raises(FailedError, match="float16 ends at 65504") as caught:
            quantization.to_float16(model, images[:1])
        assert name in str(caught.value)
    model, name = with_weight(float32_onnx, -65504.0)
    # An image of the mean colour, so that the activations are small.
    grey = np.full((1, 32, 32, 3), 255 * np.array(random_run.RECIPE.mean))
    half = quantization.to_float16(model, grey)
    assert constants(half)[name].min() == -65504


def test_an_activation_beyond_float16(float32_onnx, images):
    # Several hundred do not matter, 1e5 would be infinite on a GPU.
    quantization.to_float16(with_factor(float32_onnx, 7), images[:8])
    with pytest.raises(FailedError, match=r"large is as large as \d.*float16 ends at 65504"):
        quantization.to_float16(with_factor(float32_onnx, 15), images[:8])


def test_int8_weights_have_a_scale_a_channel(float32_onnx, models):
    before = {
        node.name: node for kind in ("Conv", "MatMul") for node in of_kind(float32_onnx, kind)
    }
    nodes = {node.name: node for node in models["int8"].graph.node if node.name in before}
    arrays = constants(float32_onnx)
    assert len(nodes) == 21
    for name, node in nodes.items():
        kernel = arrays[before[name].input[1]]
        values, scale, zero_point, axis = dequantized_input(models["int8"], node, 1)
        assert values.dtype == np.int8
        assert not zero_point.any()
        assert axis == (0 if node.op_type == "Conv" else 1)
        assert scale.shape == (kernel.shape[axis],)
        others = tuple(each for each in range(kernel.ndim) if each != axis)
        largest = np.abs(kernel).max(axis=others)
        np.testing.assert_allclose(scale, largest / 64, rtol=0.005)  # of 7 bits
        spread = scale.reshape([-1 if each == axis else 1 for each in range(kernel.ndim)])
        assert np.all(np.abs(values * spread - kernel) <= spread * 0.5001 + 1e-7)


def test_int8_gates_are_the_normalizations(float32_onnx, images):
    """Each gate's argument is of int8 too, with one weight a channel, which int8 can tell."""
    model = with_statistics(float32_onnx)
    int8 = quantization.to_int8(model, images[:8])
    arrays, int8_arrays = constants(model), constants(int8)
    nodes = {node.name: node for node in int8.graph.node}
    for number, normalization in enumerate(of_kind(model, "BatchNormalization")):
        gamma, beta, mean, variance = (arrays[name] for name in normalization.input[1:5])
        scale = gamma / np.sqrt(variance + (0.25 if number else 1e-5))
        node = nodes[normalization.name]
        assert (node.op_type, node.output) == ("Conv", normalization.output)
        values, scales, _, axis = dequantized_input(int8, node, 1)
        assert values.shape == (len(gamma), 1, 1, 1)
        assert axis == 0
        np.testing.assert_allclose(values.ravel() * scales, scale, rtol=0.005)
        bias = int8_arrays[node.input[2]]
        np.testing.assert_allclose(bias, beta - mean * scale, rtol=1e-5, atol=1e-7)


def test_int8_is_what_runs(models, tmp_path):
    """ONNX Runtime fuses the quantized nodes; a float convolution would be slow."""
    count = operators_that_run(models["int8"], tmp_path)
    assert (count["QLinearConv"], count["Conv"]) == (28, 0)
    assert (count["QLinearSigmoid"], count["Sigmoid"]) == (8, 0)
    assert (count["QLinearAdd"], count["Add"]) == (8, 0)
    assert (count["QLinearMul"], count["Mul"]) == (8, 1)  # of the image's normalization
    assert count["QuantizeLinear"] == 1
    assert count["QLinearMatMul"] == 0  # its sums, the logits, would have only 256 values


def test_ranges_are_measured_on_all_images(float32_onnx, images):
    dim = images[:20] * 0.7
    bright = np.concatenate([dim, np.full((1, 32, 32, 3), 255, np.float32)])
    mean, std = np.array(random_run.RECIPE.mean), np.array(random_run.RECIPE.std)
    for each in (dim, bright):  # the last image alone makes the difference
        low, high = range_of_the_image(quantization.to_int8(float32_onnx, each))
        normalized = (each / 255 - mean) / std
        step = (high - low) / 255
        np.testing.assert_allclose(low, normalized.min(), atol=step)
        np.testing.assert_allclose(high, normalized.max(), atol=step)


@pytest.mark.parametrize("convert", [quantization.to_float16, quantization.to_int8])
def test_no_images(float32_onnx, convert):
    for shape in ((0, 32, 32, 3), (32, 32, 3), (4, 3, 32, 32), (4, 28, 28, 3)):
        with pytest.raises(InputError, match=r"of shape \(32, 32, 3\); received \("):
            convert(float32_onnx, np.zeros(shape, np.float32))


def test_errors_are_not_silenced(float32_onnx, images, monkeypatch, caplog):
    def fail(*args, **kwargs):
        logging.warning("of no interest")
        logging.error("of interest")
        raise RuntimeError("broken")

    monkeypatch.setattr(quantization.quantization, "quantize_static", fail)
    with pytest.raises(RuntimeError, match="broken"):
        quantization.to_int8(float32_onnx, images[:1])
    assert caplog.messages == ["of interest"]
    assert logging.root.manager.disable == logging.NOTSET
