"""The gRPC client against a server in this process, made of the official stubs."""

import time

import numpy as np
import pytest
import tensorflow as tf

from export.runtime.grpc_client import GrpcClient
from export.runtime.rest import parse_signatures
from tests.support.serving import grpc_server
from tests.support.serving.grpc_server import LOGITS, PROBABILITIES, Predictions, recorded
from training.cli import InputError

IMAGES = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), np.uint8)
ENCODED = [b"one", b"two", b"\xff\x00three"]


@pytest.fixture(scope="module")
def target():
    with grpc_server.running() as target:
        yield target


@pytest.mark.parametrize(
    ("pictures", "signature", "name"),
    [(IMAGES, "serving_default", "image"), (ENCODED, "serving_bytes", "image_bytes")],
    ids=["image", "image_bytes"],
)
def test_predict(target, pictures, signature, name):
    found = GrpcClient(target, "toy", version=2).predict(pictures)
    np.testing.assert_array_equal(found.logits, LOGITS)
    np.testing.assert_array_equal(found.probabilities, PROBABILITIES)
    request = Predictions.requests[-1]
    spec = request.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 2, signature)
    assert request.inputs.keys() == {name}
    sent = tf.make_ndarray(request.inputs[name])
    assert sent.dtype == (object if name == "image_bytes" else np.float32)
    np.testing.assert_array_equal(sent, pictures)
    GrpcClient(target).predict(pictures)
    assert not Predictions.requests[-1].model_spec.HasField("version")


def test_an_answer_of_more_than_4_mib(target):
    assert GrpcClient(target, "large").predict(IMAGES).logits.shape == (3, 200_000)


def test_status_and_signatures_are_the_same_as_over_rest(target):
    client = GrpcClient(target, "toy")
    assert client.status() == {2: "AVAILABLE"}
    assert client.signatures() == parse_signatures(recorded("metadata")["metadata"], "REST")
    assert client.signatures()["serving_default"].inputs == {"image": (None, 32, 32, 3)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("none", r"answered NOT_FOUND: .*Latest\(none\) \(check the model's name"),
        ("picky", r"INVALID_ARGUMENT: Unknown image file format\."),
        ("crowded", "is not available: .*queue is full"),
        ("half", "returns logits, without 'probabilities'"),
        ("broken", "broken tensor"),
        ("slow", r"no answer within 0\.1 s"),
    ],
)
def test_a_fault_becomes_one_clear_line(target, model, message):
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        GrpcClient(target, model, timeout=0.1 if model == "slow" else 10).predict(IMAGES)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 0.4


def test_nobody_listens_and_bad_addresses():
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9 is not available: .*refused"):
        GrpcClient("127.0.0.1:9").predict(IMAGES)
    for target in ("localhost", "http://localhost:8500", ":8500", "host:port"):
        with pytest.raises(InputError, match="localhost:8500"):
            GrpcClient(target)
