"""Servers on the loopback interface: one replays `rest.json`, one sends what a test chooses."""

import contextlib
import http.client
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RECORDED = {
    entry["what"]: entry
    for entry in json.loads(Path(__file__).parents[2].joinpath("export", "rest.json").read_text())
}
# Of equal requests the first one gives its name.
WHATS = {
    tuple(entry["request"][key] for key in ("method", "path", "body")): what
    for what, entry in reversed(RECORDED.items())
}
NOT_RECORDED = {"status": 599, "content_type": "text/plain", "body": "not recorded"}


def abridged(body):
    """Returns a body in the form in which it was recorded."""
    if body is None or len(body) <= 400:
        return body
    return f"{body[:160]}... ({len(body)} characters)"


@contextlib.contextmanager
def replay():
    """Yields the address of the replaying server, and the growing list of what it was asked."""
    log = []

    class Replay(BaseHTTPRequestHandler):
        def answer(self):
            length = self.headers["Content-Length"]
            body = None if length is None else self.rfile.read(int(length)).decode()
            log.append(WHATS.get((self.command, self.path, abridged(body))))
            response = RECORDED[log[-1]]["response"] if log[-1] else NOT_RECORDED
            self.send_response(response["status"])
            self.send_header("Content-Type", response["content_type"])
            self.end_headers()
            self.wfile.write(response["body"].encode())

        do_GET = do_POST = answer  # noqa: N815 -- the names that http.server looks for

        def log_message(self, *args):
            """Prints nothing, because the list is the log."""

    with _running(ThreadingHTTPServer(("127.0.0.1", 0), Replay)) as port:
        yield f"http://127.0.0.1:{port}", log


@contextlib.contextmanager
def tcp_server(answer):
    """Yields the port of a server that reads a request, then calls `answer(socket, first_line)`."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            first_line = self.rfile.readline()
            headers = http.client.parse_headers(self.rfile)
            self.rfile.read(int(headers.get("Content-Length", 0)))
            with contextlib.suppress(OSError):  # the client may have had enough
                answer(self.connection, first_line)

    with _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


@contextlib.contextmanager
def _running(server):
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
