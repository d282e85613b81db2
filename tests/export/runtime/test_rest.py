"""The REST client against a replay of what a real server answered."""

import base64
import json
import re

import numpy as np
import pytest

from export.runtime.rest import (
    RestClient,
    ServerError,
    UnexpectedAnswerError,
    VersionStatus,
    one_line,
    parse_outputs,
)
from export.runtime.signatures import IMAGE, IMAGE_BYTES, Signature, scores
from tests.support.replay import RECORDED, replay

SEVENS = np.full((2, 32, 32, 3), 7, np.uint8)
SEVENS_PROBABILITIES = [0.207177937, 0.192581594, 0.202379212, 0.194131494, 0.203729808]
SEVENS_LOGITS = [0.0314119309, -0.0416461267, 0.00797712803, -0.0336303413, 0.0146285426]
NOISE_PROBABILITIES = [0.342072457, 0.0841195062, 0.219901606, 0.100487657, 0.253418773]
NOISE_LOGITS = [0.573450089, -0.829334, 0.131607622, -0.651537538, 0.273470819]
LARGE_PROBABILITIES = [0.329949111, 0.0890212655, 0.219704196, 0.106194817, 0.2551305]
LARGE_LOGITS = [0.543836415, -0.766226768, 0.137179941, -0.589826822, 0.286673069]
NANS = [float("nan")] * 5

# what -> number of pictures, logits and probabilities of each of them
ANSWERS = {
    "predict, row format": (2, SEVENS_LOGITS, SEVENS_PROBABILITIES),
    "predict, row format, named": (1, SEVENS_LOGITS, SEVENS_PROBABILITIES),
    "predict, column format": (2, SEVENS_LOGITS, SEVENS_PROBABILITIES),
    "predict, signature serving_bytes": (1, NOISE_LOGITS, NOISE_PROBABILITIES),
    "predict, serving_bytes, another size": (1, LARGE_LOGITS, LARGE_PROBABILITIES),
    "predict, unnamed bytes": (1, NOISE_LOGITS, NOISE_PROBABILITIES),
    "nan": (1, NANS, NANS),
    "still right": (2, SEVENS_LOGITS, SEVENS_PROBABILITIES),
}
SHAPE_OF = "Shape of tensor _arg_serving_default_image_0_0"
NOT_COMPATIBLE = "is not compatible with expected shape [?,32,32,3]."
ELEMENT_0 = "Failed to process element: 0"
# what -> HTTP status, the reason on one line
ERRORS = {
    "status of an absent version": (404, "Could not find version 9 of model toy"),
    "unknown model": (404, "Could not find any versions of model none"),
    "predict, absent version": (404, "Servable not found for request: Specific(toy, 9)"),
    "unknown signature": (400, 'Serving signature name: "nope" not found in signature def'),
    "wrong rank": (400, f"{SHAPE_OF} [2] {NOT_COMPATIBLE}"),
    "wrong rank 3": (400, f"{SHAPE_OF} [32,32,3] {NOT_COMPATIBLE}"),
    "wrong size": (400, f"{SHAPE_OF} [1,8,8,3] {NOT_COMPATIBLE}"),
    "wrong channels": (400, f"{SHAPE_OF} [1,32,32,4] {NOT_COMPATIBLE}"),
    "ragged": (
        400,
        f"{ELEMENT_0} of 'instances' list. Error: INVALID_ARGUMENT: Encountered list at"
        " unexpected size: 1 at level: 1 expected size: 2",
    ),
    "strings": (
        400,
        f"{ELEMENT_0} of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\" Type:"
        " String is not of expected type: float",
    ),
    "empty batch": (400, "JSON Value: { \"instances\": [] } No values in 'instances' array"),
    "missing key": (400, "Missing 'inputs' or 'instances' key"),
    "wrong input name": (400, "Missing named input: image in 'inputs' object."),
    "not JSON": (400, "JSON Parse error: Invalid value. at offset: 17"),
    "empty body": (400, "JSON Parse error: The document is empty"),
    "corrupt image": (
        400,
        "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required.",
    ),
    "cut image": (400, "Invalid PNG data, size 200"),
    "bad base64": (
        400,
        f"{ELEMENT_0} key: image_bytes of 'instances' list. Error: INVALID_ARGUMENT: Unable to"
        " base64 decode",
    ),
    "GET on predict": (400, "Malformed request: GET /v1/models/toy:predict"),
    "unknown verb": (400, "Malformed request: POST /v1/models/toy:foo"),
    "classify": (400, "No classification inputs found in SignatureDef"),
}
NAN_IMAGE, SMALL_IMAGE, RGBA_IMAGE = (
    np.full((1, 32, 32, 3), np.nan),
    np.zeros((1, 8, 8, 3), np.float32),
    np.zeros((1, 32, 32, 4), np.float32),
)
# The requests that were recorded abridged, but for those that hold an encoded picture.
WHOLE_REQUESTS = {
    "predict, row format": {"instances": SEVENS.tolist()},
    "predict, row format, named": {"instances": [{"image": SEVENS[0].tolist()}]},
    "predict, column format": {"inputs": {"image": SEVENS.tolist()}},
    "predict, absent version": {"instances": SEVENS.tolist()},
    "unknown signature": {"signature_name": "nope", "instances": SEVENS.tolist()},
    "wrong rank 3": {"inputs": {"image": SEVENS[0].tolist()}},
    "wrong size": {"instances": SMALL_IMAGE.tolist()},
    "wrong channels": {"instances": RGBA_IMAGE.tolist()},
    "wrong input name": {"inputs": {"pixels": SEVENS.tolist()}},
    "nan": {"instances": NAN_IMAGE.tolist()},
    "still right": {"instances": SEVENS.tolist()},
}


@pytest.fixture(scope="module")
def server():
    with replay() as server:
        yield server


def whole_body(what):
    """Returns the recorded request's body, made whole where it was recorded abridged."""
    recorded = RECORDED[what]["request"]["body"]
    match = re.fullmatch(r"(.*)\.\.\. \((\d+) characters\)", recorded or "")
    if match is None:
        return recorded
    if what in WHOLE_REQUESTS:
        return json.dumps(WHOLE_REQUESTS[what])
    # Of an encoded picture only the start is known; any that starts so has the same request.
    start, length = match.group(1), int(match.group(2))
    end = '"}}]}' if "image_bytes" in start else '"}]}'
    return start.ljust(length - len(end), "A") + end


@pytest.mark.parametrize("what", ANSWERS)
def test_recorded_prediction_is_parsed_exactly(server, what):
    count, logits, probabilities = ANSWERS[what]
    url, _ = server
    request = RECORDED[what]["request"]
    answer = RestClient(url).request("POST", request["path"], whole_body(what))
    found = scores(parse_outputs(answer, url), count, url)
    assert found.logits.dtype == found.probabilities.dtype == np.float32
    np.testing.assert_array_equal(found.logits, np.float32([logits] * count))
    np.testing.assert_array_equal(found.probabilities, np.float32([probabilities] * count))


def test_rows_are_not_mixed():
    rows = [
        {"logits": [1, 2], "probabilities": [0, 1]},
        {"probabilities": [1, 0], "logits": [4, 3]},
    ]
    expected = {"logits": [[1, 2], [4, 3]], "probabilities": [[0, 1], [1, 0]]}
    assert parse_outputs({"predictions": rows}, "server") == expected


@pytest.mark.parametrize("what", ERRORS)
def test_recorded_error_becomes_one_clear_line(server, what):
    status, reason = ERRORS[what]
    url, _ = server
    request = RECORDED[what]["request"]
    with pytest.raises(ServerError) as caught:
        RestClient(url).request(request["method"], request["path"], whole_body(what))
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert str(caught.value).startswith(f"{url} answered {status}: {reason}")
    assert "\n" not in str(caught.value)
    assert "{{" not in str(caught.value)


def test_page_outside_the_interface_is_no_answer(server):
    with pytest.raises(UnexpectedAnswerError, match="404 with text/html, not a JSON object"):
        RestClient(server[0]).request("GET", "/nothing")


def test_graph_of_an_error_in_this_process_is_left_out():
    message = (
        "Graph execution error:\n\nDetected at node map/Assert defined at (most recent call last):"
        "\n<stack traces unavailable>\nassertion failed: [The image declares] [5000] [x] [5000]\n"
        "\t [[{{node map/Assert}}]] [Op:__inference_signature_wrapper_1859]"
    )
    assert one_line(message) == "assertion failed: [The image declares] [5000] [x] [5000]"
    assert len(one_line("long " * 1000)) <= 300


def test_every_recorded_exchange_is_tested():
    others = {"status", "status of a version", "metadata", "outside"}
    assert ANSWERS.keys() | ERRORS.keys() | others == RECORDED.keys()


# what is asked -> how the client's own methods ask it
REFUSED_CALLS = {
    "status of an absent version": ({"version": 9}, lambda client: client.status()),
    "unknown model": ({"model": "none"}, lambda client: client.status()),
    "predict, absent version": ({"version": 9}, lambda client: client.predict(SEVENS)),
    "unknown signature": ({}, lambda client: client.predict(SEVENS, signature="nope")),
    "wrong rank": ({}, lambda client: client.predict(np.array([1, 2]))),
    "wrong size": ({}, lambda client: client.predict(SMALL_IMAGE)),
    "wrong channels": ({}, lambda client: client.predict(RGBA_IMAGE)),
    "empty batch": ({}, lambda client: client.predict(SEVENS[:0])),
}


@pytest.mark.parametrize("what", REFUSED_CALLS)
def test_method_is_refused_as_recorded(server, what):
    options, call = REFUSED_CALLS[what]
    url, log = server
    with pytest.raises(ServerError, match=re.escape(ERRORS[what][1])):
        call(RestClient(url, **{"model": "toy", **options}))
    assert log[-1] == what


def test_predict_sends_the_recorded_requests(server):
    url, log = server
    client = RestClient(url, "toy")
    body = json.loads(whole_body("predict, unnamed bytes"))
    picture = base64.b64decode(body["instances"][0]["b64"])
    np.testing.assert_array_equal(client.predict(SEVENS).logits[1], np.float32(SEVENS_LOGITS))
    np.testing.assert_array_equal(client.predict([picture]).logits[0], np.float32(NOISE_LOGITS))
    assert np.isnan(client.predict(NAN_IMAGE).probabilities).all()
    assert log[-3:] == ["predict, row format", "predict, unnamed bytes", "nan"]


@pytest.mark.parametrize(("version", "what"), [(None, "status"), (2, "status of a version")])
def test_status(server, version, what):
    url, log = server
    assert RestClient(url, "toy", version).status() == [VersionStatus(2, "AVAILABLE", "")]
    assert log[-1] == what


def test_signatures(server):
    assert RestClient(server[0], "toy").signatures() == {
        wanted.signature: Signature(
            {wanted.name: wanted.shape}, {"logits": (None, 5), "probabilities": (None, 5)}
        )
        for wanted in (IMAGE, IMAGE_BYTES)
    }
