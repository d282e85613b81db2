"""The REST client: recorded answers of a real server, and servers that are absent or broken."""

import base64
import json
import re
import socket
import struct
import time

import numpy as np
import pytest

from export.runtime.rest import RestClient, one_line, parse_outputs
from export.runtime.signatures import scores
from tests.support.serving.replay import RECORDED, replay, tcp_server
from training.cli import InputError

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
}
OTHERS = {"status", "status of a version", "metadata", "still right"}
ERRORS = RECORDED.keys() - ANSWERS.keys() - OTHERS
NAN_IMAGE, SMALL_IMAGE, RGBA_IMAGE = (
    np.full((1, 32, 32, 3), np.nan),
    np.zeros((1, 8, 8, 3), np.float32),
    np.zeros((1, 32, 32, 4), np.float32),
)


@pytest.fixture(scope="module")
def server():
    with replay() as server:
        yield server


@pytest.mark.parametrize("what", ANSWERS)
def test_recorded_predictions_are_parsed_exactly(what):
    count, logits, probabilities = ANSWERS[what]
    answer = json.loads(RECORDED[what]["response"]["body"])
    found = scores(parse_outputs(answer, "server"), count, "server")
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


@pytest.mark.parametrize("what", sorted(ERRORS))
def test_recorded_errors_are_shown_on_one_line(what):
    """All requests that the server refused get their recorded answer, whatever is asked."""
    response = RECORDED[what]["response"]
    body, status = response["body"], response["status"]
    answer = http_answer(body, f"{status} Oops", f"Content-Type: {response['content_type']}")
    with tcp_server(saying(answer)) as port, pytest.raises(InputError) as caught:
        RestClient(f"http://127.0.0.1:{port}").status()
    line = str(caught.value)
    assert f"127.0.0.1:{port} answered {status}" in line
    assert "\n" not in line
    assert "{{" not in line
    if what == "outside":
        assert "text/html, not a JSON object" in line
    else:
        words = re.split(r"\[\[|: goo", json.loads(body)["error"])[0].split()
        assert " ".join(words)[:100] in line
    assert ("check the model's name and version" in line) == (status == 404 and what != "outside")


def test_graph_of_an_error_in_this_process_is_left_out():
    message = (
        "Graph execution error:\n\nDetected at node map/Assert defined at (most recent call last):"
        "\n<stack traces unavailable>\nassertion failed: [The image declares] [5000] [x] [5000]\n"
        "\t [[{{node map/Assert}}]] [Op:__inference_signature_wrapper_1859]"
    )
    assert one_line(message) == "assertion failed: [The image declares] [5000] [x] [5000]"
    assert len(one_line("long " * 1000)) <= 300


# The request as it was recorded -> how the client's own methods make it
REFUSED_CALLS = {
    "status of an absent version": ({"version": 9}, lambda client: client.status()),
    "unknown model": ({"model": "none"}, lambda client: client.status()),
    "predict, absent version": ({"version": 9}, lambda client: client.predict(SEVENS)),
    "wrong rank": ({}, lambda client: client.predict(np.array([1, 2]))),
    "wrong size": ({}, lambda client: client.predict(SMALL_IMAGE)),
    "wrong channels": ({}, lambda client: client.predict(RGBA_IMAGE)),
    "empty batch": ({}, lambda client: client.predict(SEVENS[:0])),
}


@pytest.mark.parametrize("what", REFUSED_CALLS)
def test_refused_calls(server, what):
    options, call = REFUSED_CALLS[what]
    url, log = server
    with pytest.raises(InputError, match=f"answered {RECORDED[what]['response']['status']}"):
        call(RestClient(url, **{"model": "toy", **options}))
    assert log[-1] == what


def test_predict_sends_the_recorded_requests(server):
    url, log = server
    client = RestClient(url, "toy")
    # Of the encoded picture only the start is known; any that starts so has the same request.
    body = RECORDED["predict, unnamed bytes"]["request"]["body"]
    start, length = re.fullmatch(r'.*"(.*)\.\.\. \((\d+) characters\)', body).groups()
    envelope = {"signature_name": "serving_bytes", "instances": [{"b64": ""}]}
    encoded = start.ljust(int(length) - len(json.dumps(envelope)), "A")
    np.testing.assert_array_equal(client.predict(SEVENS).logits[1], np.float32(SEVENS_LOGITS))
    picture = base64.b64decode(encoded)
    np.testing.assert_array_equal(client.predict([picture]).logits[0], np.float32(NOISE_LOGITS))
    assert np.isnan(client.predict(NAN_IMAGE).probabilities).all()
    assert log[-3:] == ["predict, row format", "predict, unnamed bytes", "nan"]


def test_status_and_signatures(server):
    url, log = server
    assert RestClient(url, "toy").status() == {2: "AVAILABLE"}
    assert RestClient(url, "toy", 2).status() == {2: "AVAILABLE"}
    assert log[-2:] == ["status", "status of a version"]
    found = RestClient(url, "toy").signatures()
    assert found["serving_default"].inputs == {"image": (None, 32, 32, 3)}
    assert found["serving_bytes"].inputs == {"image_bytes": (None,)}
    outputs = {"logits": (None, 5), "probabilities": (None, 5)}
    assert [signature.outputs for signature in found.values()] == [outputs, outputs]


def http_answer(body, status="200 OK", headers="Content-Type: application/json"):
    data = body.encode()
    return f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def saying(data):
    return lambda connection, _: connection.sendall(data)


def reset(connection, _):
    linger_for_nothing = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_nothing)
    connection.close()


def say_nothing(connection, _):
    connection.recv(1 << 16)


HTML = "<html><body>It works!</body></html>"
CUT = http_answer('{"predictions": [{"logits": [1, 2')[:-8]
REDIRECT = "Content-Type: text/html\r\nLocation: https://login.example/"
# what the server does -> words of the error
FAULTS = {
    "closes at once": (lambda connection, _: None, "is not available"),
    "resets the connection": (reset, "is not available: .*reset"),
    "says nothing": (say_nothing, r"no answer within 0\.3 s"),
    "speaks gRPC": (b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0", "is not available"),
    "HTML": (
        http_answer(HTML, headers="Content-Type: text/html"),
        "200 with text/html, not a JSON object: is this the REST port",
    ),
    "redirect": (http_answer("", "302 Found", REDIRECT), "answered 302"),
    "empty body": (http_answer(""), "200 with an empty body"),
    "cut body": (CUT, "is not available"),
    "bytes": (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe\x00", "not a JSON object"),
    "deep JSON": (http_answer("[" * 100_000), "not a JSON object"),
    "JSON list": (http_answer("[1, 2]"), "not a JSON object"),
    "other JSON": (http_answer('{"ok": true}'), "without named outputs"),
    "single output": (http_answer('{"predictions": [[1, 2]]}'), "without named outputs"),
    "no logits": (http_answer('{"outputs": {"probabilities": [[1]]}}'), "without 'logits'"),
    "another count": (
        http_answer('{"outputs": {"logits": [[1], [2]], "probabilities": [[1], [1]]}}'),
        r"shape \(2, 1\) .* for 1 pictures",
    ),
    "error without words": (http_answer("{}", "500 Oops"), "answered 500: no reason given"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_becomes_one_clear_line(fault):
    answer, message = FAULTS[fault]
    act = answer if callable(answer) else saying(answer)
    start = time.monotonic()
    with tcp_server(act) as port, pytest.raises(InputError, match=message) as caught:
        RestClient(f"http://127.0.0.1:{port}", timeout=0.3).predict(SEVENS[:1])
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("method", ["status", "signatures"])
@pytest.mark.parametrize(
    "answer",
    [{}, {"metadata": {"signature_def": 1}}, {"model_version_status": [{"version": "x"}]}],
    ids=json.dumps,
)
def test_malformed_descriptions(method, answer):
    with (
        tcp_server(saying(http_answer(json.dumps(answer)))) as port,
        pytest.raises(InputError, match="answered without"),
    ):
        getattr(RestClient(f"http://127.0.0.1:{port}"), method)()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(InputError, match=f"127.0.0.1:{port} is not available: .*refused"):
        RestClient(f"http://127.0.0.1:{port}").status()


@pytest.mark.parametrize(
    "url", ["localhost:8501", "ftp://localhost", "http://", "http://host:99999", "http://[::1", ""]
)
def test_addresses_that_are_not_valid(url):
    with pytest.raises(InputError, match="http://localhost:8501"):
        RestClient(url).status()


def test_an_address_keeps_its_path():
    seen = []

    def answer(connection, first_line):
        seen.append(first_line)
        connection.sendall(http_answer('{"model_version_status": []}'))

    with tcp_server(answer) as port:
        client = RestClient(f"http://127.0.0.1:{port}/tf serving/", model="a/b", version=3)
        assert client.status() == {}
    assert seen == [b"GET /tf%20serving/v1/models/a%2Fb/versions/3 HTTP/1.1\r\n"]
