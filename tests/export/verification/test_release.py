"""The release of a verified file: exports at once into one folder, and the report's hash."""

import hashlib
import json
import threading
import types

import pytest

from export.verification import release
from export.verification.verify import VerificationError
from training.cli import InputError

SOURCE = types.SimpleNamespace(
    truth="itself", name="saved_model/1", notes=[], data_name="none", identity={}
)


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    """A verification that fails if the candidate, a string, is not empty."""

    def verify(export, candidate, advance):
        if candidate:
            raise VerificationError("values", candidate, {"values": {"passed": False}})
        return {"values": {"passed": True}}

    monkeypatch.setattr(release, "verify", verify)


def released(folder, content, meanwhile=lambda path: None, complaint="", name="model.onnx", **more):
    def open_file(path):
        assert path.read_bytes() == content
        meanwhile(path)
        return complaint, {}

    more = {"precision": "float32", "preprocessing": {}, **more}
    return release.verify_and_release(
        release.Export(SOURCE, folder / name, content, open_file, images=[], labels=[], **more)
    )


def assert_released(folder, content, *more):
    """The file is the one that its report describes."""
    report = json.loads((folder / "verification.json").read_text())
    assert (folder / "model.onnx").read_bytes() == content
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["bytes"] == len(content)
    names = {".lock", "model.onnx", "preprocessing.json", "verification.json", *more}
    assert {path.name for path in folder.iterdir()} == names
    described = json.loads((folder / "preprocessing.json").read_text())["sha256"]
    assert described["model.onnx"] == report["sha256"]
    assert set(described) == {"model.onnx"}


def described(size=32, crop=0.875, labels="a"):
    digest = labels and hashlib.sha256(labels.encode()).hexdigest()
    rule = {"height": size, "width": size, "crop_fraction": crop, "class_names_sha256": digest}
    return {"preprocessing": rule, "companions": {"labels.txt": labels}}


def test_an_export_during_another(tmp_path):
    released(tmp_path, b"one", lambda path: released(tmp_path, b"another"))
    assert_released(tmp_path, b"one")


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
    assert_released(tmp_path, (tmp_path / "model.onnx").read_bytes())


def test_the_hash_is_of_the_file_on_the_disk(tmp_path):
    """Even if it is no longer what was written."""
    report = released(tmp_path, b"written", lambda path: path.write_bytes(b"changed"))
    assert report["sha256"] == hashlib.sha256(b"changed").hexdigest()
    assert_released(tmp_path, b"changed")


def test_a_failed_export_keeps_the_verified_file_of_another(tmp_path):
    with pytest.raises(VerificationError):
        released(tmp_path, b"bad", lambda path: released(tmp_path, b"good"), "bad")
    assert (tmp_path / "model.unverified.onnx").read_bytes() == b"bad"
    assert (tmp_path / "model.previous.onnx").read_bytes() == b"good"
    released(tmp_path, b"better")
    assert_released(tmp_path, b"better", "model.previous.onnx")


def test_the_files_beside_it_are_of_the_verified_file(tmp_path):
    released(tmp_path, b"good", **described(1))
    with pytest.raises(VerificationError):
        released(tmp_path, b"bad", complaint="bad", **described(2, labels="b"))
    assert (tmp_path / "labels.txt").read_text() == "a"
    assert json.loads((tmp_path / "preprocessing.json").read_text())["height"] == 1
    released(tmp_path, b"better", **described(3, labels=None))
    assert not (tmp_path / "labels.txt").exists()
    assert json.loads((tmp_path / "preprocessing.json").read_text())["height"] == 3
    (tmp_path / "labels.txt").write_text("the user's")
    released(tmp_path, b"better", **described(3, labels=None))
    assert (tmp_path / "labels.txt").read_text() == "the user's"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_precisions_of_a_model_share_a_folder(tmp_path):
    for name in ("model.tflite", "model.int8.tflite", "model.onnx", "model.int8.tflite"):
        precision = "int8" if "int8" in name else "float32"
        released(tmp_path, b"good", name=name, precision=precision, **described())
    record = json.loads((tmp_path / "preprocessing.json").read_text())
    assert set(record["sha256"]) == {"model.tflite", "model.int8.tflite", "model.onnx"}
    assert (tmp_path / "labels.txt").read_text() == "a"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"crop": None}, "crop_fraction None instead of 0.875"),
        ({"size": 24}, "height 24 instead of 32, width 24 instead of 32"),
        ({"labels": "b"}, "other class names"),
        ({"labels": None}, "other class names"),
    ],
    ids=str,
)
def test_another_rule_or_other_class_names_are_refused(tmp_path, other, message):
    int8 = {"name": "model.int8.tflite", "precision": "int8"}

    def meanwhile(path):
        released(tmp_path, b"good", name="model.tflite", **described())

    for _ in range(2):  # while another export runs, and after it
        with pytest.raises(InputError, match=rf"of model\.tflite, .*; received {message}\. Give"):
            released(tmp_path, b"int8", meanwhile, **int8, **described(**other))
        before = contents(tmp_path)
        assert set(before) == {
            *(".lock", "model.tflite", "labels.txt", "preprocessing.json", "verification.json")
        }
        assert before["labels.txt"] == b"a"
        assert json.loads(before["preprocessing.json"])["crop_fraction"] == 0.875
    (tmp_path / "model.tflite").unlink()
    released(tmp_path, b"int8", **int8, **described(**other))
    assert json.loads((tmp_path / "preprocessing.json").read_text())["sha256"].keys() == {
        "model.int8.tflite"
    }


def test_different_models_in_one_folder(tmp_path):
    for size, name in ((1, "a.onnx"), (1, "a.int8.onnx"), (2, "b.onnx"), (3, "model.onnx")):
        precision = "int8" if "int8" in name else "float32"
        rule = described(size)["preprocessing"]
        released(tmp_path, b"good", name=name, precision=precision, preprocessing=rule)
    for size, variant, names in ((1, ".a", ["a.int8.onnx", "a.onnx"]), (2, ".b", ["b.onnx"])):
        record = json.loads((tmp_path / f"preprocessing{variant}.json").read_text())
        assert (record["height"], list(record["sha256"])) == (size, names)
    assert json.loads((tmp_path / "preprocessing.json").read_text())["height"] == 3


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        released(tmp_path, b"one")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
