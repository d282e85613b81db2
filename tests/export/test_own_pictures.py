"""A folder of pictures from the training to each kind of model, which all give the same answers."""

import csv
import json
import shutil

import numpy as np
import onnx
import pytest

from export import benchmark, predict, to_litert, to_onnx, to_savedmodel
from export.targets import exporter
from export.timing import report as timing
from export.verification import release
from export.verification.source import open_run, open_source
from tests.support import picture_folder
from tests.support.networks import small_network
from tests.support.serving import grpc_server
from training import evaluate, gates, train
from training.cli import FailedError, InputError
from training.data import pictures, store
from training.fitting import network
from training.gating import trials
from training.runs import files

HEIGHT, WIDTH = 40, 48
TRAINING = ["--arch", "r18w4_nam", "--recipe", "fast", "--strategy", "none", "--quiet"]
TRAINING += ["--epochs", "2", "--batch-size", "16", "--learning-rate", "0.05"]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of the pictures, in `telling-place`, and a small finished run on it, exported."""
    folder = tmp_path_factory.mktemp("own")
    photos = picture_folder.make(folder / "telling-place" / "photos", count=24)
    run = folder / "run"
    size = ["--image-size", str(HEIGHT), str(WIDTH)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "initial_model", small_network.initial_model)
        train.main([*TRAINING, "--dataset", str(photos), "--run-dir", str(run), *size])
    to_onnx.main(["--run", str(run), "--provider", "cpu"])
    to_litert.main(["--run", str(run)])
    return photos, run


@pytest.fixture
def answers(capsys):
    """Runs `predict.py`; returns the labels, and the logits by class, of each picture."""

    def answers(*argv):
        capsys.readouterr()
        predict.main([*map(str, argv), "--json", "--recursive", "--top", "5"])
        found = json.loads(capsys.readouterr().out)["predictions"]
        labels = [row["top"][0]["label"] for row in found]
        tops = [sorted(row["top"], key=lambda entry: entry["class"]) for row in found]
        return labels, np.array([[entry["logit"] for entry in top] for top in tops])

    return answers


def check_all_kinds(photos, run, answers):
    """Pictures of every kind have the same label and logits by each kind of model, and a server."""
    labels, logits = answers(photos, "--model", run / "best.keras")
    assert len(labels) > 100
    assert len(set(labels)) > 1
    version = run / "saved_model" / "1"
    models = (run, run / "onnx" / "model.onnx", run / "litert" / "model.tflite")
    ways = [["--model", model] for model in models]
    with grpc_server.running(version) as target:
        names = ["--grpc", target, "--labels", version / "assets" / "labels.txt"]
        rule = version / "assets" / "preprocessing.json"
        ways += [[*names, "--preprocessing", rule], [*names, "--crop-fraction", "0.875"]]
        for way in ways:
            found_labels, found = answers(photos, *way)
            assert found_labels == labels
            np.testing.assert_allclose(found, logits, rtol=0, atol=5e-5)
        _, whole = answers(photos, *names)
    assert np.abs(whole - logits).max() > 1e-2  # the rule matters


def test_every_kind_of_model_gives_the_same_answers(own, answers):
    check_all_kinds(*own, answers)


def test_the_model_decodes_and_crops_as_the_client_does(own, answers):
    """Except for the orientation, transparency and files that are neither PNG nor JPEG."""
    photos, run = own
    other = ("010.png", "011.jpg", "022.png", "023.jpg")
    found = pictures.find([str(photos / "red")], recursive=True)
    plain = [path for path in found if path.lower().endswith("g") and not path.endswith(other)]
    _, logits = answers(*plain, "--model", run)
    _, found = answers(*plain, "--model", run, "--signature", "bytes")
    # 1 of 255 in a pixel; a label may change where two logits are as near.
    np.testing.assert_allclose(found, logits, rtol=0, atol=0.02 * np.abs(logits).max())


def test_predictions_are_the_evaluations(own, answers):
    """`predict.py` reads a picture as the verification and the evaluation do."""
    photos, run = own
    source = open_source(run)
    listing = [row for row in source.dataset.listing if row[0] == "test"]
    _, logits = answers(*(photos / name for _, name, _ in listing), "--model", run / "best.keras")
    np.testing.assert_allclose(source.evaluate(source.dataset.test.images), logits, atol=5e-5)
    top1 = np.mean(logits.argmax(-1) == source.dataset.test.labels)
    assert top1 == pytest.approx(source.run.top1, abs=1e-6)


def test_the_rule_is_beside_each_file(own):
    _, run = own
    expected = pictures.Resize(HEIGHT, WIDTH, 0.875)
    for folder, model in (("saved_model/1/assets", None), ("onnx", "onnx"), ("litert", "tflite")):
        found = files.read_json(run / folder / "preprocessing.json")
        assert pictures.Resize.from_json(found) == expected
        labels = run / "saved_model/1/assets/labels.txt"
        assert found["class_names_sha256"] == files.sha256(labels)
        if model:
            file = run / folder / f"model.{model}"
            assert found["sha256"] == {file.name: files.sha256(file)}
    model = onnx.load(run / "onnx" / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["picture"]) == expected.as_json()
    assert "data_licence" not in metadata
    assert metadata["data"] == "photos (120 pictures)"


def test_no_shipped_file_names_a_folder_of_this_machine(own):
    _, run = own
    shipped = [p for name in ("saved_model", "onnx", "litert") for p in (run / name).rglob("*")]
    found = [p for p in shipped if p.is_file() and b"telling-place" in p.read_bytes()]
    assert found == []


@pytest.mark.slow
def test_int8_reads_a_batch_of_pictures_at_a_time(own, tmp_path, monkeypatch):
    _, run = own
    most, getitem = 0, store.Images.__getitem__

    def recorded(images, index):
        nonlocal most
        found = getitem(images, index)
        most = max(most, len(found) if found.ndim == 4 else 1)
        return found

    monkeypatch.setattr(store.Images, "__getitem__", recorded)
    source = open_source(run)
    assert most == 0
    assert len(source.dataset.train) > 64
    options = ["--run", str(run), "--precision", "int8", "--output", str(tmp_path)]
    to_onnx.main([*options, "--provider", "cpu"])
    report = files.read_json(tmp_path / "verification.int8.json")
    assert report["verdict"] == "verified"
    assert report["stages"]["values"]["images"] == len(source.dataset.test)
    assert 1 < most <= 64


def test_pictures_are_read_when_a_precision_needs_them(own, monkeypatch):
    read, getitem = [], store.Decoded.__getitem__
    monkeypatch.setattr(store.Decoded, "__getitem__", lambda s, i: read.append(i) or getitem(s, i))
    source = open_source(own[1])
    images, labels = exporter.sample(source, "int8")
    calibration = exporter.calibration_images(source)
    assert (len(images), len(labels), len(calibration)) == (10, 10, 110)
    assert read == []
    assert calibration[:8].shape == (8, HEIGHT, WIDTH, 3)
    assert len(read) == 8


def test_a_moved_folder_and_another_one(own, tmp_path):
    photos, run = own
    gone = shutil.copytree(run, tmp_path / "run")
    config = files.read_json(gone / "config.json")
    files.write_json(gone / "config.json", {**config, "dataset": str(tmp_path / "gone")})
    with pytest.raises(InputError, match=r"gone: expected .*--data-dir"):
        open_source(gone)
    opened = open_run(gone)
    assert len(opened.dataset(photos).test) == 10
    other = shutil.copytree(photos, tmp_path / "other")
    (other / "red").rename(other / "rot")
    with pytest.raises(InputError, match=r"5 classes and other .* 5; different: red, rot\."):
        opened.dataset(other)
    for command in (evaluate, gates):
        with pytest.raises(InputError, match=r"different: red, rot\."):
            command.main([str(gone), "--data-dir", str(other)])
    shutil.rmtree(other / "rot")
    with pytest.raises(InputError, match=r"5 classes and other .* 4; different: red\."):
        opened.dataset(other)


@pytest.mark.parametrize("fraction", [0.5, None])
def test_a_copied_saved_model_keeps_its_rule(own, tmp_path, fraction):
    """It belongs to no run; in a training, a folder's crop fraction would be 0.875."""
    photos, run = own
    copy = shutil.copytree(run / "saved_model" / "1", tmp_path / "copy" / "1")
    rule = files.read_json(copy / "assets" / "preprocessing.json")
    files.write_json(copy / "assets" / "preprocessing.json", {**rule, "crop_fraction": fraction})
    opened = open_source(saved_model=copy, dataset=str(photos))
    assert opened.run is None
    assert opened.dataset.resize == pictures.Resize(HEIGHT, WIDTH, fraction)


def test_changed_test_pictures_are_left_out(own, tmp_path):
    photos, run = own
    changed = shutil.copytree(photos, tmp_path / "photos")
    before = open_run(run).dataset(photos)
    gone = next(name for part, name, _ in before.listing if part == "test")
    (changed / gone).unlink()
    shutil.copy(changed / "red" / "001.png", changed / "red" / "new.png")
    source = open_source(run, data_dir=changed)
    assert (source.tested, len(source.dataset.test)) in ((10, 9), (10, 8))
    assert any("of 10 test pictures" in note for note in source.notes)
    np.testing.assert_array_equal(source.dataset.test.images[-1], before.test.images[-1])
    assert open_source(run).notes == []
    for picture in changed.rglob("*.*"):
        shutil.copy(photos / "red" / "002.JPG", picture)
    with pytest.raises(InputError, match="none of which"):
        open_source(run, data_dir=changed)


def test_another_version_needs_no_picture(own, tmp_path):
    copy = shutil.copytree(own[1], tmp_path / "run")
    config = files.read_json(copy / "config.json")
    files.write_json(copy / "config.json", {**config, "dataset": str(tmp_path / "gone")})
    to_savedmodel.main(["--run", str(copy)])
    first, second = (copy / "saved_model" / n / "assets" for n in "12")
    assert (first / "labels.txt").read_bytes() == (second / "labels.txt").read_bytes()
    rules = [files.read_json(assets / "preprocessing.json") for assets in (first, second)]
    assert pictures.Resize.from_json(rules[0]) == pictures.Resize.from_json(rules[1])


def test_evaluate_and_benchmark(own, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "prepare_tensorflow", lambda *args: None)  # once in a process
    _, run = own
    evaluate.main([str(run)])
    models = "savedmodel,onnx,litert"
    options = ["--models", models, "--batches", "1,8", "--rounds", "10", "--output", str(tmp_path)]
    benchmark.main(["--run", str(run), *options])
    report = files.read_json(tmp_path / "benchmark.json")
    assert report["left_out"] == {}


@pytest.mark.slow
def test_a_thousand_pictures_at_64_pixels(tmp_path, answers):
    photos, run = picture_folder.make(tmp_path / "photos", count=200), tmp_path / "run"
    settings = ["--arch", "r18w16_nam", "--recipe", "fast", "--image-size", "64", "--epochs", "4"]
    settings += ["--batch-size", "32", "--learning-rate", "0.1", "--strategy", "none", "--quiet"]
    train.main([*settings, "--dataset", str(photos), "--run-dir", str(run)])
    for precision in to_onnx.PRECISIONS:
        for command, name in ((to_onnx, "onnx"), (to_litert, "litert")):
            command.main(["--run", str(run), "--precision", precision])
            file = release.report_path(run / name / exporter.file_name(precision, "x"))
            report = files.read_json(file)
            assert (report["verdict"], report["precision"]) == ("verified", precision)
    check_all_kinds(photos, run, answers)


@pytest.mark.slow
def test_gates(own, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "SHARES", ())  # the small network has no channels to remove
    gates.main([str(own[1]), "--images", "8", "--out", str(tmp_path)])
    assert files.read_json(tmp_path / "gates.json")["images"] == 8


def test_folders_patterns_and_bad_pictures(own, tmp_path, capsys):
    photos, run = own
    folder = shutil.copytree(photos / "red", tmp_path / "red")
    (folder / "cut.jpg").write_bytes((folder / "001.png").read_bytes()[:300])
    some = [path.name for path in folder.iterdir() if path.suffix.lower() in pictures.SUFFIXES]
    model = ["--model", str(run / "onnx" / "model.onnx")]
    with pytest.raises(FailedError, match=r"1 of 19 pictures"):
        predict.main([str(folder), *model, "--csv", str(tmp_path / "a.csv"), "--top", "2"])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted(name for name in some if not name.startswith("."))
    assert [row["image"] for row in rows if row["rank"] != "2"] == [str(folder / n) for n in names]
    bad = [row for row in rows if row["error"]]
    assert [(row["image"], row["label"]) for row in bad] == [(str(folder / "cut.jpg"), "")]
    assert {row["rank"] for row in rows} == {"1", "2", ""}

    capsys.readouterr()
    with pytest.raises(FailedError):
        predict.main([str(folder / "*.jpg"), str(folder / "001.png"), *model, "--json"])
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert "error" in next(row for row in found if row["image"].endswith("cut.jpg"))
    assert found[-1]["top"][0]["label"]
    assert len(found) == 1 + len([name for name in names if name.endswith(".jpg")])
    assert len(pictures.find([str(folder)], recursive=True)) == len(names) + 6
