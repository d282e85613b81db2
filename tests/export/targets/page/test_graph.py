"""A graph with gates that can be read and set: equal to the file, and to the Keras model."""

import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import keras_nam
from export.targets.page import graph
from training.cli import FailedError, InputError
from training.data import streams


@pytest.fixture(scope="module")
def gated(float32_onnx):
    return graph.with_gates(float32_onnx)


@pytest.fixture(scope="module")
def session(gated):
    return onnxruntime.InferenceSession(
        gated.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def images(source):
    return source.dataset.test.images[:4].astype(np.float32)


@pytest.fixture(scope="module")
def normalized(source, images):
    return np.asarray(streams.normalize(images, source.run.mean, source.run.std))


def run(session, gated, images, changes=None):
    names = ["logits", *(gate.name for gate in graph.gates(gated))]
    feeds = {"image": images} | graph.neutral(gated) | (changes or {})
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_unchanged_it_equals_each_file(paths, images):
    assert len(paths) == 3
    for path in paths:
        changed = graph.with_gates(onnx.load(path))
        assert len(graph.gates(changed)) == 8
        assert graph.check(changed, path, images) <= 1e-5
    assert {graph.precision(onnx.load(path)) for path in paths} == {"float32", "float16", "int8"}


def test_a_difference_makes_no_page(paths, gated, images, monkeypatch):
    (path,) = [path for path in paths if path.name == "model.onnx"]
    feeds = graph.neutral(gated)
    feeds["stage1_block1_nam/factor"] *= 0.999
    monkeypatch.setattr(graph, "neutral", lambda model: feeds)
    with pytest.raises(FailedError, match=r"logits differ by .* expected at most 1e-05"):
        graph.check(gated, path, images)


def test_its_values_are_the_gates(source, session, gated, images, normalized):
    found = run(session, gated, images)
    expected = keras_nam.gate_values(source.run.model, normalized)
    assert len(expected) == 8
    for path, values in expected.items():
        channels_first = np.moveaxis(values, -1, 1)
        np.testing.assert_allclose(found[path.split("/")[-1]], channels_first, atol=1e-5)


def test_the_values_of_int8_are_its_levels(paths, images):
    (path,) = [path for path in paths if path.name == "model.int8.onnx"]
    changed = graph.with_gates(onnx.load(path))
    opened = onnxruntime.InferenceSession(changed.SerializeToString())
    levels = np.unique(run(opened, changed, images)["stage1_block1_nam"])
    steps = np.diff(levels) / np.diff(levels).min()
    assert len(steps) > 10
    np.testing.assert_allclose(steps, np.round(steps), atol=0.01)


def test_every_gate_can_be_a_half(source, session, gated, images, normalized):
    """A gate whose gammas are 0 is sigmoid(0)."""
    model = keras.models.clone_model(source.run.model)
    model.set_weights(source.run.model.get_weights())
    for layer in model.layers:
        if layer.name.endswith("_nam"):
            layer.gamma.assign(0 * layer.gamma)
    halves = {
        name: np.full_like(value, 0 if name.endswith("factor") else 0.5)
        for name, value in graph.neutral(gated).items()
    }
    found = run(session, gated, images, halves)["logits"]
    np.testing.assert_allclose(found, model(normalized, training=False), atol=1e-4)
    assert np.abs(found - run(session, gated, images)["logits"]).max() > 0.1


def test_its_metadata_have_the_gammas(float32_onnx):
    gammas = {"stage1_block1_nam": [1.0, 2.0, 3.0, 4.0], "stage1_block2_nam": [1.0]}
    changed = graph.with_gates(float32_onnx, gammas)
    (text,) = [entry.value for entry in changed.metadata_props if entry.key == "gates"]
    first, second, *_ = json.loads(text)
    assert (first["layout"], first["units"]) == ("CHW", "channels")
    assert first["gamma"] == [1, 2, 3, 4]
    assert second["gamma"] is None  # four channels


def network(nodes, shapes, out=(1, 3, 2, 5)):
    """Returns a graph from `x` to `out`; a node is (operator, inputs, output, name, attributes)."""
    made = [
        helper.make_node(kind, inputs, [output], name, **attributes)
        for kind, inputs, output, name, attributes in nodes
    ]
    inputs = {"x": (1, 3, 2, 5), **shapes}.items()
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in (inputs, [("out", out)])
    ]
    graph = helper.make_graph(made, "toy", *sides)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])


def gate_of(*nodes, out=(1, 3, 2, 5), **shapes):
    (gate,) = graph.gates(graph.with_gates(network(nodes, shapes, out)))
    return gate.name, gate.layout, gate.units, gate.unit_shape


def test_layouts_and_units():
    last = ("Transpose", ["x"], "y", "t", {"perm": (0, 2, 3, 1)})
    product = ("Mul", ["x", "g"], "out", "m", {})
    assert gate_of(("Sigmoid", ["a"], "g", "net/se_1/Sigmoid", {}), product, a=(1, 3, 1, 1)) == (
        *("se", "CHW", "channels"),
        [1, 3, 1, 1],
    )
    assert gate_of(("Sigmoid", ["a"], "g", "net/cbam/Sigmoid_1", {}), product, a=(1, 1, 2, 5)) == (
        *("cbam", "CHW", "positions"),
        [1, 1, 2, 5],
    )
    assert gate_of(
        last,
        ("Sigmoid", ["a"], "g", "net/b_spatial_2/Sigmoid", {}),
        ("Mul", ["y", "g"], "out", "m", {}),
        a=(1, 2, 5, 3),
        out=(1, 2, 5, 3),
    ) == ("b_spatial", "HWC", "positions", [1, 2, 5, 1])
    assert gate_of(
        ("Sigmoid", ["a"], "s", "net/eca/conv/Sigmoid", {}),
        ("Unsqueeze", ["s"], "g", "u", {"axes": [3]}),
        product,
        a=(1, 3, 1),
    ) == ("eca/conv", "CH", "channels", [1, 3, 1])


def test_a_swish_and_an_output_are_no_gates():
    swish = [("Sigmoid", ["x"], "g", "n/s/Sigmoid", {}), ("Mul", ["x", "g"], "out", "m", {})]
    typed = [
        ("Cast", ["x"], "y", "c", {"to": TensorProto.FLOAT}),
        ("Sigmoid", ["y"], "g", "n/s/Sigmoid", {}),
        ("Mul", ["x", "g"], "out", "m", {}),
    ]
    output = [("Sigmoid", ["x"], "out", "n/s/Sigmoid", {})]
    for nodes in (swish, typed, output):
        assert graph.gates(graph.with_gates(network(nodes, {}))) == []


def test_a_gate_that_is_added_to_one():
    nodes = [
        ("Sigmoid", ["a"], "s", "n/bam/Sigmoid", {}),
        ("Add", ["one", "s"], "g", "add", {}),
        ("Mul", ["x", "g"], "out", "m", {}),
    ]
    shapes = {"a": (1, 3, 2, 5), "one": (1,)}
    (gate,) = graph.gates(graph.with_gates(network(nodes, shapes)))
    assert gate.added


def test_a_gate_with_a_gain_and_a_scaled_output():
    nodes = [
        ("Sigmoid", ["a"], "s", "n/nam/Sigmoid", {}),
        ("Mul", ["two", "s"], "g", "gain", {}),
        ("Mul", ["x", "g"], "out", "m", {}),
    ]
    model = network(nodes, {"a": (1, 3, 2, 5)})
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    (gate,) = graph.gates(graph.with_gates(model))
    assert (gate.name, gate.added) == ("nam", False)
    model = network([*nodes[:1], ("Mul", ["two", "s"], "out", "m", {})], {"a": (1, 3, 2, 5)})
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    assert graph.gates(graph.with_gates(model)) == []


def test_a_shape_that_is_not_fixed():
    with pytest.raises(InputError, match="se has no fixed shape"):
        gate_of(
            ("Sigmoid", ["a"], "g", "net/se/Sigmoid", {}),
            ("Mul", ["x", "g"], "out", "m", {}),
            a=(1, "C", 1, 1),
        )
