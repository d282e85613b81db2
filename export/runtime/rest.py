"""A client of TensorFlow Serving over REST, and what it shares with the one over gRPC.

```python
client = RestClient("http://localhost:8501", model="keras_nam")
client.status()                       # [VersionStatus(version=1, state='AVAILABLE', error='')]
client.signatures()                   # what the model takes and answers
client.predict(images).probabilities  # float32 [N, classes]
```
"""

import base64
import http.client
import json
import re
import time
import urllib.parse
from typing import NamedTuple

import numpy as np

from export.runtime.signatures import Signature, input_of, scores
from training.cli import InputError

# What TensorFlow adds to an error: the nodes of the graph that raised it, a dumped proto.
NOISE = re.compile(
    r"\[\[\{\{.*?\}\}\]\]"
    r"|\[Op:\w+\]"
    r"|Graph execution error:.*?<stack traces unavailable>"
    r"|: goo\.gle/debug.*",
    re.DOTALL,
)
LONGEST_REASON = 300
HINTS = {
    "Servable not found": "check the model's name and version",
    "Could not find": "check the model's name and version",
    "not found in signature def": "the model has other signatures",
    "not compatible with expected shape": "send [N,H,W,3], of the model's height and width",
    "Unknown image file format": "send PNG or JPEG",
    "Invalid PNG data": "a picture is damaged",
}


def one_line(message):
    """Returns an error message of TensorFlow on one line, without graph nodes, not too long."""
    return " ".join(NOISE.sub("", message).split())[:LONGEST_REASON]


class ServerError(InputError):
    """The server answered with an error.

    `status` is the HTTP status (404) or the name of the gRPC code ("NOT_FOUND"), `reason` the
    server's message on one line, without graph nodes.
    """

    def __init__(self, source, status, message):
        self.status = status
        self.reason = one_line(message)
        hint = next((f" ({hint})" for text, hint in HINTS.items() if text in self.reason), "")
        super().__init__(f"{source} answered {status}: {self.reason or 'no reason given'}{hint}")


class UnreachableError(InputError):
    """Nothing answers, the connection broke, or the time ran out."""

    @classmethod
    def because(cls, source, reason):
        return cls(f"{source} is not available: {reason} (does it run, and is this its port?)")

    @classmethod
    def too_slow(cls, source, timeout):
        return cls(f"{source} gave no answer within {timeout:g} s: allow more time (--timeout)")


class UnexpectedAnswerError(InputError):
    """What answers is not TensorFlow Serving."""


class VersionStatus(NamedTuple):
    """A version of a model on the server; `state` is START, LOADING, AVAILABLE, UNLOADING, END."""

    version: int
    state: str
    error: str


class RestClient:
    """A client of the REST interface.

    Args:
        url: The server's address, `http://host:8501` or `https://…`.
        model: The model's name on the server.
        version: Integer, a version of the model; `None` for the server's choice, the newest.
        timeout: Seconds for a whole call.

    Raises:
        InputError: If the URL is not one. The calls raise `ServerError`, `UnreachableError`
            and `UnexpectedAnswerError`, which are `InputError`s too.
    """

    labels = None  # a server tells no class names

    def __init__(self, url, model="keras_nam", version=None, timeout=10.0):
        connections = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            parts = urllib.parse.urlsplit(url)
            self._connection_type = connections[parts.scheme]
            self._address = parts.hostname, parts.port
        except (KeyError, ValueError):
            raise InputError(f"{url!r} is no address such as http://localhost:8501") from None
        if not parts.hostname:
            raise InputError(f"{url!r} names no host, as http://localhost:8501 does")
        self.source = url.rstrip("/")
        self.timeout = timeout
        self._prefix = urllib.parse.quote(parts.path.rstrip("/"), safe="/%")
        self._model = f"/v1/models/{urllib.parse.quote(model, safe='')}"
        if version is not None:
            self._model += f"/versions/{version}"

    def predict(self, pictures, signature=None):
        """Sends pictures in the row format, which names no input.

        Args:
            pictures: Array of shape [N, 32, 32, 3], 0–255 (as integers they take the fewest
                characters), or a list of encoded PNG or JPEG files, as `bytes`.
            signature: A signature's name. Defaults to the one for such pictures.

        Returns:
            `Scores`: float32 `logits` and `probabilities` of shape [N, classes]. The server
            sends 9 digits, from which a float32 comes back exactly.
        """
        signature = signature or input_of(pictures).signature
        body = {} if signature == "serving_default" else {"signature_name": signature}
        body["instances"] = [_json_value(picture) for picture in pictures]
        answer = self.request("POST", f"{self._model}:predict", json.dumps(body))
        return scores(parse_outputs(answer, self.source), len(pictures), self.source)

    def status(self):
        """Returns a list of `VersionStatus`, one for each version that the server knows."""
        return parse_status(self.request("GET", self._model), self.source)

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""
        answer = self.request("GET", f"{self._model}/metadata")
        return parse_signatures(answer.get("metadata"), self.source)

    def request(self, method, path, body=None):
        """Sends one request and returns the JSON object that answers it; follows no redirect."""
        deadline = time.monotonic() + self.timeout
        connection = self._connection_type(*self._address, timeout=self.timeout)
        headers = {"Content-Type": "application/json"}
        try:
            data = None if body is None else body.encode()
            connection.request(method, self._prefix + path, data, headers)
            response = connection.getresponse()
            content = b"".join(_pieces(response, deadline))
        except TimeoutError:
            raise UnreachableError.too_slow(self.source, self.timeout) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError.because(self.source, reason) from None
        finally:
            connection.close()
        return self._parse(response, content)

    def _parse(self, response, content):
        if 300 <= response.status < 400:
            target = response.headers.get("Location", "nowhere")
            raise UnexpectedAnswerError(
                f"{self.source} redirects to {target}: give the address where the model is served"
            )
        try:
            # The server sends NaN, Infinity and -Infinity as bare tokens, outside the standard.
            answer = json.loads(content, parse_constant=float)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            kind = response.headers.get_content_type() if content else "an empty body"
            raise UnexpectedAnswerError(
                f"{self.source} answered {response.status} with {kind}, not a JSON object: is this"
                " the REST port of TensorFlow Serving (8501 by default)?"
            )
        if response.status != http.client.OK:
            raise ServerError(self.source, response.status, str(answer.get("error", "")))
        return answer


def parse_outputs(answer, source):
    """Returns the outputs, name -> nested lists, in a row or a column answer."""
    match answer:
        case {"outputs": dict(columns)}:
            return columns
        case {"predictions": [dict(first), *_] as rows} if all(
            isinstance(row, dict) and row.keys() == first.keys() for row in rows
        ):
            return {name: [row[name] for row in rows] for name in first}
    raise UnexpectedAnswerError(f"{source} answered no named outputs (logits and probabilities)")


def parse_status(answer, source):
    """Returns the list of `VersionStatus` in the JSON form of a `GetModelStatusResponse`."""
    try:
        return [
            VersionStatus(
                int(entry["version"]), entry["state"], entry["status"].get("error_message", "")
            )
            for entry in answer["model_version_status"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UnexpectedAnswerError(f"{source} answered no model status") from None


def parse_signatures(metadata, source):
    """Returns name -> `Signature` from the JSON form of a model's metadata."""
    try:
        return {
            name: Signature(*(_shapes(entry.get(side, {})) for side in Signature._fields))
            for name, entry in metadata["signature_def"]["signature_def"].items()
            if not name.startswith("__")  # TensorFlow's own, such as __saved_model_init_op
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UnexpectedAnswerError(f"{source} answered no model metadata") from None


def _shapes(tensors):
    shapes = {name: entry.get("tensor_shape", {}) for name, entry in tensors.items()}
    return {
        name: None if shape.get("unknown_rank") else tuple(map(_length, shape.get("dim", [])))
        for name, shape in shapes.items()
    }


def _length(dimension):
    size = int(dimension.get("size", 0))
    return None if size < 0 else size


def _json_value(picture):
    if isinstance(picture, bytes):
        return {"b64": base64.b64encode(picture).decode()}
    return np.asarray(picture).tolist()


def _pieces(response, deadline):
    """Yields the body; a time-out alone would not end an answer that trickles."""
    while piece := response.read1(1 << 16):
        yield piece
        if time.monotonic() > deadline:
            raise TimeoutError
