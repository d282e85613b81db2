"""Networks of keras.applications with NAM after each block: exported, verified, faults caught.

The small network has what they are made of, and is the one that is not slow.
"""

import dataclasses

import numpy as np
import pytest

from export.runtime.local_models import LiteRTModel, OnnxModel
from export.runtime.preprocessing import UNCHANGED, Preprocessing
from export.targets import litert, quantization
from export.targets import onnx as onnx_target
from export.verification import keras_source, trained_weights
from export.verification.release import Export
from export.verification.verify import VerificationError, verify
from tests.support import injected_faults
from tests.support.networks import applications
from training.cli import InputError

VERIFIED, CALIBRATION = 32, 64
SLOW = ["MobileNetV3Small", "ResNet50", "EfficientNetV2B0"]
NETWORKS = ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
# The others contain their preprocessing.
NORMALIZE = {"ResNet50": Preprocessing("0..1", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
# Random weights: the verification refuses these, with what it measured.
REFUSED = {
    ("EfficientNetV2B0", "int8"): "20 of 32 images have the same top-1",
    ("MobileNetV3Small", "float16"): "a logit differs by 32 epsilons of the largest, limit 16",
}
KINDS = [*injected_faults.GRAPH_FAULTS, *injected_faults.MODEL_FAULTS]


class Network:
    """A network with gates, the source of its exports, and its float32 ONNX graph.

    It was not trained, so there are no labels: answers are compared, not accuracies.
    """

    def __init__(self, name, folder):
        self.name = name
        self.path = folder / "model"
        images = applications.images(VERIFIED + CALIBRATION)
        self.images, self.calibration = images[:VERIFIED], images[VERIFIED:]
        self.normalize = NORMALIZE.get(name, UNCHANGED)
        taken = self.normalize(self.calibration.astype(np.float32))
        model = applications.with_nam(applications.network(name, taken), name)
        self.source = self.source_of(model, self.normalize)
        self.graph = onnx_target.convert(self.source, opset=17)

    def source_of(self, model, normalize):
        data = keras_source.of_arrays(self.images, None, self.calibration)
        names = [f"class {number}" for number in range(5)]
        return keras_source.of_model(
            model, data, "model", self.path.parent, normalize=normalize, class_names=names
        )

    def verify(self, content, open_file=OnnxModel, precision="float32", missing=()):
        self.path.write_bytes(content)
        labels = "".join(f"{name}\n" for name in self.source.class_names)
        self.path.with_name("labels.txt").write_text(labels)
        export = Export(
            self.source, self.path, b"", None, precision, self.images, None, list(missing)
        )
        return verify(export, open_file(self.path))

    def verify_float32(self, graph, source=None):
        constants = onnx_target.constants(graph)
        missing = trained_weights.missing(source or self.source, constants)
        return self.verify(graph.SerializeToString(), missing=missing)

    def broken(self, kind):
        """Returns a graph with a fault, and the source of what was converted."""
        rng = np.random.default_rng(KINDS.index(kind))
        if kind in injected_faults.GRAPH_FAULTS:
            graph = type(self.graph)()
            graph.CopyFrom(self.graph)
            try:
                injected_faults.GRAPH_FAULTS[kind](graph, rng)
            except (IndexError, ValueError):  # nothing to draw from
                pytest.skip("the graph has nothing of this kind to break")
            return graph, self.source
        model, mean, std = injected_faults.MODEL_FAULTS[kind](self.source, rng)
        if model is self.source.model and (mean, std) == (self.normalize.mean, self.normalize.std):
            pytest.skip("the network takes pixels as they are")
        if min(std) <= 0:
            pytest.skip("the network's mean is 0: it cannot be a std")
        normalize = dataclasses.replace(self.normalize, mean=tuple(mean), std=tuple(std))
        classify = self.source_of(model, normalize).classify
        source = dataclasses.replace(self.source, classify=classify)
        return onnx_target.convert(source, opset=17), source


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    return Network(request.param, tmp_path_factory.mktemp(request.param))


def test_float32(network):
    stages = network.verify_float32(network.graph)
    assert stages["weights"] == {"passed": True, "missing": []}
    assert stages["values"]["passed"]
    largest = np.abs(network.source.evaluate(network.images[:4])).max()
    assert 0 < network.source.rounding(network.images[:4]) < 2e-5 * largest


@pytest.mark.parametrize(
    ("precision", "convert"),
    [("float16", quantization.to_float16), ("int8", quantization.to_int8)],
)
def test_smaller_precisions(network, precision, convert):
    if reason := REFUSED.get((network.name, precision)):
        pytest.skip(f"not verified with random weights: {reason}")
    converted = convert(network.graph, network.calibration)
    stages = network.verify(converted.SerializeToString(), precision=precision)
    assert stages["values"]["passed"]


def test_litert(network):
    content = litert.convert(network.source.classify, "float32")
    missing = trained_weights.missing(network.source, litert.constants(content), whole=False)
    assert network.verify(content, LiteRTModel, missing=missing)["values"]["passed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_caught(network, kind):
    graph, source = network.broken(kind)
    with pytest.raises((VerificationError, InputError)):
        network.verify_float32(graph, source)
