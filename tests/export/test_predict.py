"""`predict.py`: the same pictures through every kind of model give the same classes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpc_server
import numpy as np
import pytest
import toys
from grpc_server import LOGITS
from PIL import Image
from replay import RECORDED, replay, tcp_server

from export import predict
from training.cli import FailedError, InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder with versions 1 (other labels) and 2, an ONNX file, and pictures."""
    folder = tmp_path_factory.mktemp("predict")
    for version, labels in (("1", list("vwxyz")), ("2", toys.LABELS)):
        toys.save_savedmodel(folder / "run" / "saved_model" / version, labels)
    toys.save_onnx(folder / "model.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), np.uint8)
    pixels[0, ..., 0] //= 4
    for name, array in zip(["blue.png", "grey.png"], pixels, strict=True):
        Image.fromarray(array).save(folder / name)
    Image.new("RGB", (32, 32), (7, 7, 7)).save(folder / "seven.png")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs the command in the folder; returns what it printed, parsed with `--json`."""
    monkeypatch.chdir(folder)

    def run(*argv):
        predict.main(argv)
        output = capsys.readouterr().out
        return json.loads(output) if "--json" in argv else output

    return run


LOCAL = {
    "run": ["--model", "run"],
    "base path": ["--model", "run/saved_model"],
    "version": ["--model", "run/saved_model/2"],
    "encoded": ["--model", "run", "--signature", "bytes"],
    "ONNX": ["--model", "model.onnx"],
}


@pytest.mark.parametrize("way", LOCAL)
def test_local_model_gives_the_known_answers(run, folder, way):
    found = run("blue.png", "grey.png", "--top", "2", "--json", *LOCAL[way])
    assert [prediction["image"] for prediction in found["predictions"]] == ["blue.png", "grey.png"]
    for prediction in found["predictions"]:
        logits = toys.logits_of(np.asarray(Image.open(folder / prediction["image"])))
        order = np.argsort(-logits)[:2]
        top = prediction["top"]
        assert [entry["class"] for entry in top] == order.tolist()
        assert [entry["label"] for entry in top] == [toys.LABELS[i] for i in order]
        # float32 sums over 1,024 pixels
        np.testing.assert_allclose([entry["logit"] for entry in top], logits[order], atol=1e-5)
        np.testing.assert_allclose(
            [entry["probability"] for entry in top], toys.softmax(logits)[order], atol=1e-5
        )


def test_more_pictures_than_a_batch(run, folder, monkeypatch):
    monkeypatch.setattr(predict, "BATCH_SIZE", 2)
    names = ["blue.png", "grey.png", "seven.png", "grey.png", "blue.png"]
    found = run(*names, "--json", "--top", "1", "--model", "model.onnx")["predictions"]
    assert [prediction["image"] for prediction in found] == names
    logits = [prediction["top"][0]["logit"] for prediction in found]
    expected = [toys.logits_of(np.asarray(Image.open(folder / name))).max() for name in names]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_table(run):
    lines = run("seven.png", "--model", "model.onnx", "--top", "2").splitlines()
    cells = [line.split() for line in lines if line.strip()]
    logits = toys.logits_of(np.full((32, 32, 3), 7))
    (first, second), parts = np.argsort(-logits)[:2], toys.softmax(logits)
    assert cells[0] == ["model.onnx"]
    assert cells[1] == ["picture", "class", "probability"]
    assert cells[3] == ["seven.png", toys.LABELS[first], f"{parts[first]:.2%}"]
    assert cells[4] == [toys.LABELS[second], f"{parts[second]:.2%}"]


def test_without_a_model_the_newest_finished_run_is_taken(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "run", "runs/finished")
    Path("runs/finished/result.json").write_text("{}")
    found = run(str(folder / "seven.png"), "--json")
    assert found["model"] == "runs/finished/saved_model/2"


def test_without_any_finished_run(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="No finished run"):
        run(str(folder / "seven.png"))


def test_server_over_rest(run):
    # The recorded requests: the signatures, then two pictures of colour (7, 7, 7).
    with replay() as (url, log):
        options = ["--url", url, "--model-name", "toy", "--top", "1"]
        found = run("seven.png", "seven.png", "--json", *options)
        table = run("seven.png", "seven.png", *options)
    assert log == ["metadata", "predict, row format"] * 2
    entry = {"class": 0, "label": None}
    entry["probability"] = float(np.float32(0.207177937))
    entry["logit"] = float(np.float32(0.0314119309))
    assert [prediction["top"] for prediction in found["predictions"]] == [[entry]] * 2
    assert "class 0" in table
    assert "20.72%" in table


def test_server_over_grpc(run):
    with grpc_server.running() as target:
        found = run("blue.png", "grey.png", "seven.png", "--json", "--top", "1", "--grpc", target)
    tops = [prediction["top"][0] for prediction in found["predictions"]]
    np.testing.assert_array_equal([top["class"] for top in tops], LOGITS.argmax(axis=1))
    np.testing.assert_array_equal([top["logit"] for top in tops], LOGITS.max(axis=1))


def test_names_for_a_server_come_from_a_file(run, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    with replay() as (url, _):
        options = ["--url", url, "--model-name", "toy", "--labels", str(labels)]
        found = run("seven.png", "seven.png", "--json", *options)
    assert [entry["label"] for entry in found["predictions"][0]["top"]] == list("aecdb")


def test_server_with_another_models_shape(run):
    answer = json.loads(RECORDED["metadata"]["response"]["body"])
    declared = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    for dimension in declared["inputs"]["image"]["tensor_shape"]["dim"][1:3]:
        dimension["size"] = "224"
    body = json.dumps(answer).encode()

    def act(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    with (
        tcp_server(act) as port,
        pytest.raises(InputError, match=r"another kind of model: image \[N,224,224,3\] → "),
    ):
        run("seven.png", "--url", f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def bad_models(folder):
    """Models that cannot be used, in the same folder."""
    toys.save_savedmodel(folder / "large", size=64)
    toys.save_savedmodel(folder / "default only", with_bytes=False)
    toys.save_savedmodel(folder / "four names", toys.LABELS[:4])
    (folder / "empty").mkdir()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "saved_model.pb").write_bytes(b"\xff" * 100)
    toys.save_onnx(folder / "large.onnx", size=64)
    toys.save_onnx(folder / "names.onnx", class_names="apple, bear")
    toys.save_onnx(folder / "four.onnx", class_names=json.dumps(toys.LABELS[:4]))
    whole = (folder / "model.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "no names.txt").write_text("\n\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")


BAD_USE = {
    "no such model": (["--model", "none"], "none does not exist"),
    "no SavedModel": (["--model", "empty"], "empty holds no SavedModel"),
    "damaged SavedModel": (["--model", "damaged"], "damaged is a damaged SavedModel"),
    "no ONNX": (["--model", "seven.png"], "is no valid ONNX model"),
    "cut ONNX": (["--model", "cut.onnx"], "is no valid ONNX model"),
    "large SavedModel": (["--model", "large"], r"image \[N,64,64,3\] → .*image \[N,32,32,3\]"),
    "large ONNX": (["--model", "large.onnx"], r"image \[N,64,64,3\] → .*image \[N,32,32,3\]"),
    "no such signature": (
        ["--model", "default only", "--signature", "bytes"],
        r"no signature serving_bytes \(it has: serving_default\)",
    ),
    "bytes for ONNX": (
        ["--model", "model.onnx", "--signature", "bytes"],
        r"no signature serving_bytes \(it has: serving_default\)",
    ),
    "names of another model": (["--model", "four names"], "names 4 classes, .* answers 5"),
    "names of another ONNX": (["--model", "four.onnx"], "names 4 classes, .* answers 5"),
    "names that are no list": (["--model", "names.onnx"], "class_names are no JSON list"),
    "no names": (["--model", "model.onnx", "--labels", "no names.txt"], "holds no class names"),
    "names not in UTF-8": (["--model", "model.onnx", "--labels", "latin.txt"], "not UTF-8"),
    "no file of names": (["--model", "model.onnx", "--labels", "none"], "none: No such file"),
    "no server": (["--url", "http://127.0.0.1:9", "--timeout", "2"], "9 is not available"),
    "no address": (["--url", "localhost"], "no address such as http://localhost:8501"),
    "no gRPC address": (["--grpc", "http://localhost"], "no address such as localhost:8500"),
    "no picture": (["cut.onnx", "--model", "model.onnx"], r"cut\.onnx is not a picture"),
}


@pytest.mark.usefixtures("bad_models")
@pytest.mark.parametrize("kind", BAD_USE)
def test_bad_use_is_one_clear_line(run, kind):
    options, message = BAD_USE[kind]
    with pytest.raises(InputError, match=message) as caught:
        run("seven.png", *options)
    assert "\n" not in str(caught.value)


def test_runtime_that_is_not_installed(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime is not installed: pip install"):
        run("seven.png", "--model", "model.onnx")


def test_nan_is_a_failure(run, folder, monkeypatch):
    monkeypatch.setattr(toys, "WEIGHTS", np.full((3, 5), np.nan, np.float32))
    toys.save_onnx(folder / "nan.onnx")
    with pytest.raises(FailedError, match=r"nan\.onnx answers NaN or infinity for seven\.png"):
        run("seven.png", "--model", "nan.onnx")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["seven.png", "--top", "0"],
        ["seven.png", "--timeout", "0"],
        ["seven.png", "--timeout", "nan"],
        ["seven.png", "--model", "run", "--url", "http://localhost:8501"],
    ],
    ids=" ".join,
)
def test_bad_usage(run, options):
    with pytest.raises(SystemExit) as caught:
        run(*options)
    assert caught.value.code == 2


def execute(*argv):
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_parsing_needs_no_runtime():
    # Any of these would take `--help` beyond a second.
    process = execute("-c", "import sys, export.predict; print(*sys.modules, sep='\\n')")
    assert "export.predict" in process.stdout.split()
    assert not {"tensorflow", "keras", "onnxruntime", "grpc"} & set(process.stdout.split())
    assert "--model-name" in execute("export/predict.py", "--help").stdout


def test_exit_status_and_one_line():
    process = execute("export/predict.py", "none.png", "--model", "none")
    assert process.returncode == 2
    assert process.stderr == "error: cannot read the picture none.png: No such file or directory\n"
