"""Against a real TensorFlow Serving: one that runs (`TF_SERVING_URL`), or one that can be started.

`TF_SERVING_URL` names a server of a model `keras_nam` whose run folder is `TF_SERVING_RUN`;
otherwise `tensorflow_model_server` is started on a small model if it is on the PATH.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from export import random_run
from export.runtime.rest import RestClient, ServerError, UnreachableError
from export.verification.source import open_source

SERVER = shutil.which("tensorflow_model_server")
URL = os.environ.get("TF_SERVING_URL")

needs_a_server = pytest.mark.skipif(
    not (SERVER or URL), reason="no tensorflow_model_server on the PATH, nor TF_SERVING_URL"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Returns a client, and the `Source` of what it serves."""
    if URL:
        yield RestClient(URL, model="keras_nam"), open_source(os.environ["TF_SERVING_RUN"])
        return
    run = random_run.make(tmp_path_factory.mktemp("served") / "run")
    with start(run / "saved_model") as client:
        yield client, open_source(run)


def free_ports(count):
    """Returns as many ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def start(base, server=SERVER):
    grpc_port, rest_port = free_ports(2)
    process = subprocess.Popen(
        [
            server,
            f"--port={grpc_port}",  # the server refuses 0
            f"--rest_api_port={rest_port}",
            "--model_name=keras_nam",
            f"--model_base_path={Path(base).resolve()}",
        ]
    )
    client = RestClient(f"http://localhost:{rest_port}", model="keras_nam")
    try:
        deadline = time.monotonic() + 60
        while not is_available(client):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not load the model in a minute"
            time.sleep(0.5)
        yield client
        assert process.poll() is None, "the server did not survive"
    finally:
        process.terminate()
        process.wait(20)


def is_available(client):
    try:
        return any(version.state == "AVAILABLE" for version in client.status())
    except (UnreachableError, ServerError):
        return False


# What tensorflow_model_server says to its arguments, and no model behind it.
STAND_IN = """#!{python}
import http.server, socket, sys
options = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
ports = int(options["port"]), int(options["rest_api_port"])
if min(ports) <= 0 or ports[0] == ports[1]:
    sys.exit("Server options invalid: --port and --rest_api_port")
listening = socket.create_server(("localhost", ports[0]))
class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"model_version_status": [{{"version": "1", "state": "AVAILABLE",'
                         b'"status": {{}}}}]}}')
http.server.HTTPServer(("localhost", ports[1]), Status).serve_forever()
"""


def test_the_server_gets_arguments_that_it_takes(tmp_path):
    server = tmp_path / "tensorflow_model_server"
    server.write_text(STAND_IN.format(python=sys.executable))
    server.chmod(0o755)
    with start(tmp_path, server) as client:
        assert client.status()[0].version == 1


@pytest.mark.slow
@needs_a_server
def test_the_trained_answers(served):
    client, source = served
    images = source.dataset.test.images[:8]
    found = client.predict(images.astype(np.float32))
    np.testing.assert_allclose(found.logits, source.evaluate(images), atol=5e-5)


@pytest.mark.slow
@needs_a_server
@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (2, 8, 8, 3), (2, 32, 32, 4), (2,)], ids=["rank", "size", "RGBA", "row"]
)
def test_malformed_requests_are_refused(served, shape):
    client, source = served
    with pytest.raises(ServerError):
        client.predict(np.zeros(shape, np.float32))
    assert client.predict(source.dataset.test.images[:1].astype(np.float32)).logits.shape[0] == 1


@pytest.mark.slow
@needs_a_server
def test_nan_pixels_are_refused(served):
    client, _ = served
    with pytest.raises(ServerError, match="finite"):
        client.predict(np.full((1, 32, 32, 3), np.nan, np.float32))
