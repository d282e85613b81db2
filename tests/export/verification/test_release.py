"""The release of a verified file: two at once into one folder, and what the report says of it."""

import hashlib
import json
import threading
import types

import pytest

from export.verification import release
from export.verification.verify import ValuesError

SOURCE = types.SimpleNamespace(truth="itself", name="saved_model/1", notes=[], data_name="none")


@pytest.fixture(autouse=True)
def check(monkeypatch):
    """A verification that takes whatever the candidate, a list of complaints, says."""

    class Stub:
        def __init__(self, source, candidate, *rest):
            self.candidate = candidate

        def run(self):
            if self.candidate:
                raise ValuesError(self.candidate[0], {"values": {"passed": False}})
            return {"values": {"passed": True}}

    monkeypatch.setattr(release, "Check", Stub)


def released(folder, content, meanwhile=lambda path: None, complaints=()):
    def open_candidate(path):
        assert path.read_bytes() == content
        meanwhile(path)
        return list(complaints), {}

    return release.release(
        SOURCE, content, folder / "model.onnx", "float32", [], [], (), open_candidate, {}
    )


def assert_blessed(folder, content):
    """The file is the one that its report is about."""
    report = json.loads((folder / "verification.json").read_text())
    assert (folder / "model.onnx").read_bytes() == content
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["bytes"] == len(content)
    assert {path.name for path in folder.iterdir()} == {".lock", "model.onnx", "verification.json"}


def test_an_export_in_the_midst_of_another(tmp_path):
    released(tmp_path, b"one", lambda path: released(tmp_path, b"another"))
    assert_blessed(tmp_path, b"one")


def test_exports_at_once(tmp_path):
    failures = []

    def export(content):
        try:
            for _ in range(10):
                released(tmp_path, content)
        except BaseException as error:
            failures.append(error)

    contents = [bytes([letter]) * 100_000 for letter in b"abc"]
    threads = [threading.Thread(target=export, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_blessed(tmp_path, (tmp_path / "model.onnx").read_bytes())


def test_what_stands_on_the_disk_is_hashed(tmp_path):
    """Also where it is no longer what was written."""
    report = released(tmp_path, b"written", lambda path: path.write_bytes(b"changed"))
    assert report["sha256"] == hashlib.sha256(b"changed").hexdigest()
    assert_blessed(tmp_path, b"changed")


def test_a_failed_one_leaves_the_verified_one_of_another_aside(tmp_path):
    with pytest.raises(ValuesError):
        released(tmp_path, b"bad", lambda path: released(tmp_path, b"good"), ["bad"])
    assert (tmp_path / "model.unverified.onnx").read_bytes() == b"bad"
    assert (tmp_path / "model.previous.onnx").read_bytes() == b"good"
