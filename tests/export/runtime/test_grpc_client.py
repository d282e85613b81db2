"""The gRPC client against a server in this process, made of the official stubs."""

import time

import numpy as np
import pytest
import tensorflow as tf

from export.runtime.grpc_client import GrpcClient
from export.runtime.rest import (
    ServerError,
    UnexpectedAnswerError,
    UnreachableError,
    VersionStatus,
    parse_signatures,
)
from tests.support import grpc_server
from tests.support.grpc_server import LOGITS, PROBABILITIES, Predictions, recorded
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


def test_version_and_signature_are_left_to_the_server_or_given(target):
    GrpcClient(target).predict(IMAGES, signature="other")
    spec = Predictions.requests[-1].model_spec
    assert not spec.HasField("version")
    assert (spec.name, spec.signature_name) == ("keras_nam", "other")


def test_status_and_signatures_are_those_of_rest(target):
    client = GrpcClient(target, "toy")
    assert client.status() == [VersionStatus(2, "AVAILABLE", "")]
    assert client.signatures() == parse_signatures(recorded("metadata")["metadata"], "REST")
    assert client.signatures()["serving_default"].inputs == {"image": (None, 32, 32, 3)}


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("none", ServerError, r"answered NOT_FOUND: .*Latest\(none\) \(check the model's name"),
        ("picky", ServerError, r"INVALID_ARGUMENT: Unknown image file format\. \(send PNG"),
        ("crowded", UnreachableError, "is not available: .*queue is full"),
        ("half", InputError, "answers logits, without 'probabilities'"),
        ("broken", UnexpectedAnswerError, "broken tensor"),
    ],
)
def test_fault_becomes_one_clear_line(target, model, error, message):
    with pytest.raises(error, match=message) as caught:
        GrpcClient(target, model).predict(IMAGES)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_slow_server_is_given_up_in_time(target):
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer within 0\.1 s"):
        GrpcClient(target, "slow", timeout=0.1).predict(IMAGES)
    assert time.monotonic() - start < 0.4


def test_nobody_listens():
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9 is not available: .*refused"):
        GrpcClient("127.0.0.1:9").predict(IMAGES)


@pytest.mark.parametrize("target", ["localhost", "http://localhost:8500", ":8500", "host:port"])
def test_what_is_no_address_is_refused(target):
    with pytest.raises(InputError, match="localhost:8500"):
        GrpcClient(target)
