"""A client of TensorFlow Serving over REST.

```python
client = RestClient("http://localhost:8501", model="keras_nam")
client.status()                       # {1: 'AVAILABLE'}
client.signatures()                   # what the model takes and returns
client.predict(images).probabilities  # float32 [N, classes]
```
"""

import base64
import json
import urllib.parse

import numpy as np
import requests

from export.runtime.native_log import one_line
from export.runtime.signatures import IMAGE, Signature, input_of, scores, shape_of
from training.cli import InputError


class RestClient:
    """A client of the REST interface. All its errors are `InputError`s of one line.

    Args:
        url: The server's address, `http://host:8501` or `https://…`.
        model: The model's name on the server.
        version: Integer, a version of the model; `None` for the newest on the server.
        timeout: Seconds without an answer after which a call fails.
    """

    labels = rule = None  # a server knows neither class names nor how pictures are resized

    def __init__(self, url, model="keras_nam", version=None, timeout=10.0):
        self.source = url.rstrip("/")
        self.timeout = timeout
        self._model = f"/v1/models/{urllib.parse.quote(model, safe='')}"
        if version is not None:
            self._model += f"/versions/{version}"

    def predict(self, pictures):
        """Sends pictures in the row format, which does not name the input.

        Args:
            pictures: Array of shape [N, H, W, 3], 0–255 (as integers they take the fewest
                characters), or a list of encoded PNG or JPEG files, as `bytes`.

        Returns:
            `Scores`: float32 `logits` and `probabilities` of shape [N, classes]. The server
            sends 9 digits, which is enough for the exact float32.
        """
        wanted = input_of(pictures)
        body = {} if wanted is IMAGE else {"signature_name": wanted.signature}
        body["instances"] = [_json_value(picture) for picture in pictures]
        answer = self.request("POST", f"{self._model}:predict", json.dumps(body))
        return scores(parse_outputs(answer, self.source), len(pictures), self.source)

    def status(self):
        """Returns version -> state, such as `"AVAILABLE"`, of the versions on the server."""
        return parse_status(self.request("GET", self._model), self.source)

    def signatures(self):
        """Returns what the model declares: dictionary name -> `Signature`."""
        answer = self.request("GET", f"{self._model}/metadata")
        return parse_signatures(answer.get("metadata"), self.source)

    def request(self, method, path, body=None):
        """Sends one request and returns the JSON object that answers it."""
        try:
            response = requests.request(
                method,
                self.source + path,
                data=body,
                headers={"Content-Type": "application/json"},
                timeout=self.timeout,
                allow_redirects=False,
            )
        except requests.Timeout:
            raise timed_out(self.source, self.timeout) from None
        except ValueError:  # requests' errors about a URL
            raise InputError(
                f"{self.source!r} is not an address such as http://localhost:8501"
            ) from None
        except requests.RequestException as error:
            raise unavailable(self.source, str(error).rpartition(": ")[2].strip("'\")")) from None
        try:
            # The server sends NaN and Infinity as bare tokens, which Python's parser accepts.
            answer = json.loads(response.content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            kind = response.headers.get("Content-Type") if response.content else "an empty body"
            raise InputError(
                f"{self.source} answered {response.status_code} with {kind}, not a JSON object: is"
                " this the REST port of TensorFlow Serving (8501 by default)?"
            )
        if response.status_code != requests.codes.ok:
            raise refused(self.source, response.status_code, answer.get("error", ""))
        return answer


def refused(source, status, reason):
    """Returns the error for a request that a server refused: its status and its message."""
    hint = " (check the model's name and version)" if status in (404, "NOT_FOUND") else ""
    return InputError(f"{source} answered {status}: {one_line(reason) or 'no reason given'}{hint}")


def timed_out(source, timeout):
    """Returns the error for a server that did not answer in `timeout` seconds."""
    return InputError(f"{source} gave no answer within {timeout:g} s: allow more time (--timeout)")


def unavailable(source, reason):
    """Returns the error for a server that cannot be reached, or that closed the connection."""
    return InputError(
        f"{source} is not available: {one_line(reason)} (does it run, and is this its port?)"
    )


def parse_outputs(answer, source):
    """Returns the outputs, name -> nested lists, in a row or a column answer."""
    match answer:
        case {"outputs": dict(columns)}:
            return columns
        case {"predictions": [dict(first), *_] as rows} if all(
            isinstance(row, dict) and row.keys() == first.keys() for row in rows
        ):
            return {name: [row[name] for row in rows] for name in first}
    raise InputError(f"{source} answered without named outputs (logits and probabilities)")


def parse_status(answer, source):
    """Returns version -> state from the JSON form of a `GetModelStatusResponse`."""
    try:
        return {int(each["version"]): each["state"] for each in answer["model_version_status"]}
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{source} answered without a model status") from None


def parse_signatures(metadata, source):
    """Returns name -> `Signature` from the JSON form of a model's metadata."""
    try:
        return {
            name: Signature(*(_shapes(entry.get(side, {})) for side in Signature._fields))
            for name, entry in metadata["signature_def"]["signature_def"].items()
            if not name.startswith("__")  # TensorFlow's own, such as __saved_model_init_op
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{source} answered without model metadata") from None


def _shapes(tensors):
    shapes = {name: entry.get("tensor_shape", {}) for name, entry in tensors.items()}
    return {
        name: shape_of(
            None
            if shape.get("unknown_rank")
            else [int(dimension.get("size", 0)) for dimension in shape.get("dim", [])]
        )
        for name, shape in shapes.items()
    }


def _json_value(picture):
    if isinstance(picture, bytes):
        return {"b64": base64.b64encode(picture).decode()}
    return np.asarray(picture).tolist()
