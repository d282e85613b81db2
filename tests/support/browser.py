"""Chromium without a window, driven over its DevTools protocol by a pair of pipes."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run")
FLAGS += ("--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-pipe")

# Chromium reads from descriptor 3 and writes to 4.
START = "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execv(sys.argv[1], sys.argv[1:])"


@contextlib.contextmanager
def opened():
    """Starts Chromium; yields a function that opens an address and returns its `Tab`."""
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        theirs = to_browser[0], from_browser[1]
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                START.format(*theirs),
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=theirs,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        with open(to_browser[1], "wb", 0) as sink, open(from_browser[0], "rb") as source:
            connection = _Connection(sink, source)
            try:
                yield lambda address: Tab(connection, address)
            finally:
                with contextlib.suppress(OSError, EOFError):
                    connection.call("Browser.close")
                process.wait(20)


class _Connection:
    def __init__(self, sink, source):
        self.sink, self.source, self.number, self.events = sink, source, 0, []

    def call(self, method, session=None, **parameters):
        """Calls a method and returns its result; the events before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self.sink.write(json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, session, method):
        """Waits for an event of a page."""
        while not any(
            event.get("sessionId") == session and event["method"] == method for event in self.events
        ):
            self.events.append(self.receive())

    def receive(self):
        parts = bytearray()
        while (byte := self.source.read(1)) != b"\0":
            if not byte:
                raise EOFError("Chromium has ended")
            parts += byte
        return json.loads(parts)


class Tab:
    """A page in the browser."""

    def __init__(self, connection, address):
        self.connection = connection
        target = connection.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = connection.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Network", "Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        connection.wait(self.session, "Page.loadEventFired")

    def call(self, method, **parameters):
        """Calls a method of the DevTools protocol on this page."""
        return self.connection.call(method, self.session, **parameters)

    def run(self, script):
        """Returns the value of a JavaScript expression, awaited; RuntimeError if it throws."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def addresses(self):
        """Returns the addresses that the page has asked for, without data: and blob:."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.connection.events
            if event.get("sessionId") == self.session
            and event["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in asked if not address.startswith(("data:", "blob:"))]

    def complaints(self):
        """Returns the errors in the page's console."""
        return [
            event["params"]
            for event in self.connection.events
            if event.get("sessionId") == self.session
            and (
                event["method"] == "Runtime.exceptionThrown"
                or event["params"].get("entry", {}).get("level") == "error"
                or (
                    event["method"] == "Runtime.consoleAPICalled"
                    and event["params"]["type"] == "error"
                )
            )
        ]

    def screenshot(self, path, width, height=None, dark=False):
        """Writes the page as a PNG, whole or of a height, at a width in pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height or 800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=height is None)
        path.write_bytes(base64.b64decode(picture["data"]))
