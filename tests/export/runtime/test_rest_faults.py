"""The REST client against servers that are absent, slow, broken, or something else altogether."""

import json
import socket
import struct
import time

import numpy as np
import pytest

from export.runtime.rest import RestClient, ServerError, UnexpectedAnswerError, UnreachableError
from tests.support.replay import tcp_server
from training.cli import InputError

IMAGES = np.zeros((1, 32, 32, 3), np.uint8)


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


def trickle(connection, _):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.05)


HTTP2_SETTINGS = b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0"
HTML = "<html><body>It works!</body></html>"
CUT = http_answer('{"predictions": [{"logits": [1, 2')[:-8]
REDIRECT = "Content-Type: text/html\r\nLocation: https://login.example/"
# what the server does -> the error's type, and words of its line
FAULTS = {
    "closes at once": (lambda connection, _: None, UnreachableError, "is not available"),
    "resets the connection": (reset, UnreachableError, "reset"),
    "says nothing": (say_nothing, UnreachableError, r"no answer within 0\.3 s"),
    "trickles": (trickle, UnreachableError, r"no answer within 0\.3 s"),
    "speaks gRPC": (HTTP2_SETTINGS, UnreachableError, "is not available"),
    "HTML": (
        http_answer(HTML, headers="Content-Type: text/html"),
        UnexpectedAnswerError,
        "200 with text/html, not a JSON object: is this the REST port",
    ),
    "HTML error": (
        http_answer(HTML, "502 Bad Gateway", "Content-Type: text/html"),
        UnexpectedAnswerError,
        "502 with text/html",
    ),
    "redirect": (
        http_answer("", "302 Found", REDIRECT),
        UnexpectedAnswerError,
        "redirects to https://login",
    ),
    "empty body": (http_answer(""), UnexpectedAnswerError, "200 with an empty body"),
    "cut body": (CUT, UnexpectedAnswerError, "not a JSON object"),
    "bytes": (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe\x00", UnexpectedAnswerError, "not a JSON object"),
    "deep JSON": (http_answer("[" * 100_000), UnexpectedAnswerError, "not a JSON object"),
    "JSON list": (http_answer("[1, 2]"), UnexpectedAnswerError, "not a JSON object"),
    "other JSON": (http_answer('{"ok": true}'), UnexpectedAnswerError, "no named outputs"),
    "single output": (
        http_answer('{"predictions": [[1, 2]]}'),
        UnexpectedAnswerError,
        "named outputs",
    ),
    "no logits": (
        http_answer('{"outputs": {"probabilities": [[1]]}}'),
        InputError,
        "without 'logits'",
    ),
    "ragged": (
        http_answer('{"outputs": {"logits": [[1], [1, 2]], "probabilities": [[1]]}}'),
        InputError,
        "no tables of numbers",
    ),
    "another count": (
        http_answer('{"outputs": {"logits": [[1], [2]], "probabilities": [[1], [1]]}}'),
        InputError,
        r"shape \(2, 1\) .* for 1 pictures",
    ),
    "JSON error": (
        http_answer('{"error": "Unavailable: queue is full"}', "503 Service Unavailable"),
        ServerError,
        "answered 503: Unavailable: queue is full",
    ),
    "error without words": (http_answer("{}", "500 Oops"), ServerError, "500: no reason given"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_becomes_one_clear_line(fault):
    answer, kind, message = FAULTS[fault]
    act = answer if callable(answer) else saying(answer)
    start = time.monotonic()
    with tcp_server(act) as port, pytest.raises(kind, match=message) as caught:
        RestClient(f"http://127.0.0.1:{port}", timeout=0.3).predict(IMAGES)
    assert type(caught.value) is kind
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("method", ["status", "signatures"])
@pytest.mark.parametrize(
    "answer",
    [{}, {"metadata": {"signature_def": 1}}, {"model_version_status": [{"version": "x"}]}],
    ids=json.dumps,
)
def test_malformed_description_is_no_crash(method, answer):
    data = http_answer(json.dumps(answer))
    with (
        tcp_server(saying(data)) as port,
        pytest.raises(UnexpectedAnswerError, match="answered no model"),
    ):
        getattr(RestClient(f"http://127.0.0.1:{port}"), method)()


def test_infinities_are_read():
    # The tokens outside standard JSON with which the server writes what is not finite.
    data = http_answer(
        '{"outputs": {"logits": [[NaN, Infinity, -Infinity]], "probabilities": [[0, 1, 0]]}}'
    )
    with tcp_server(saying(data)) as port:
        logits = RestClient(f"http://127.0.0.1:{port}").predict(IMAGES).logits
    np.testing.assert_array_equal(logits, np.float32([[np.nan, np.inf, -np.inf]]))


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port} is not available: .*refused"):
        RestClient(f"http://127.0.0.1:{port}").status()


@pytest.mark.parametrize(
    "url",
    ["localhost:8501", "ftp://localhost", "http://", "http://host:99999", "http://[::1", ""],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError, match="http://localhost:8501"):
        RestClient(url)


def test_address_keeps_its_path():
    seen = []

    def answer(connection, first_line):
        seen.append(first_line)
        connection.sendall(http_answer('{"model_version_status": []}'))

    with tcp_server(answer) as port:
        client = RestClient(f"http://127.0.0.1:{port}/tf serving/", model="a/b", version=3)
        assert client.status() == []
    assert seen == [b"GET /tf%20serving/v1/models/a%2Fb/versions/3 HTTP/1.1\r\n"]
