"""`predict.py` with bad use, bad models and bad files: one clear line, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils

from tests.support.networks import toys
from training.cli import FailedError, InputError
from training.data.pictures import Resize

ROOT = Path(__file__).parents[3]


def without_signatures(content):
    """Returns a model as TensorFlow Lite wrote it before there were signatures."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    model.signatureDefs = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@pytest.fixture(scope="module")
def bad_models(folder):
    """Models that cannot be used, in the same folder."""
    toys.save_savedmodel(folder / "default only", with_bytes=False)
    toys.save_savedmodel(folder / "four names", toys.LABELS[:4])
    toys.save_savedmodel(folder / "integers", dtype=tf.uint8)
    (folder / "empty").mkdir()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "saved_model.pb").write_bytes(b"\xff" * 100)
    (folder / "damaged.keras").write_bytes(b"PK")
    toys.save_onnx(folder / "names.onnx", class_names="apple, bear")
    toys.save_onnx(folder / "four.onnx", class_names=json.dumps(toys.LABELS[:4]))
    whole = (folder / "model.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "onnx.tflite").write_bytes(whole)
    whole = (folder / "litert" / "model.tflite").read_bytes()
    (folder / "cut.tflite").write_bytes(whole[: len(whole) // 2])
    (folder / "old.tflite").write_bytes(without_signatures(whole))
    (folder / "no names.txt").write_text("\n\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "64.json").write_text(json.dumps(Resize(64, 64).as_json()))


BAD_USE = [
    (["--model", "none"], "none does not exist"),
    (["--model", "empty"], "empty does not hold a SavedModel"),
    (["--model", "damaged"], "damaged is a damaged SavedModel"),
    (["--model", "seven.png"], "not a valid ONNX model"),
    (["--model", "cut.onnx"], "not a valid ONNX model"),
    (["--model", "cut.tflite"], r"cut\.tflite is not a valid LiteRT model: .*Flatbuffer"),
    (["--model", "onnx.tflite"], r"onnx\.tflite is not a valid LiteRT model: .*Flatbuffer"),
    (["--model", "old.tflite"], r"no signature serving_default \(it has: none\)"),
    (["--model", "damaged.keras"], r"damaged\.keras "),
    (["--model", "integers"], "integers: .*uint8"),
    (["--model", "default only", "--signature", "bytes"], "no signature serving_bytes"),
    (["--model", "model.onnx", "--signature", "bytes"], "no signature serving_bytes"),
    (["--model", "litert/model.tflite", "--signature", "bytes"], "no signature serving_bytes"),
    (["--model", "four names"], "5 classes, .* 4 class names"),
    (["--model", "four.onnx"], "5 classes, .* 4 class names"),
    (["--model", "names.onnx"], "class_names are not a JSON list"),
    (["--model", "model.onnx", "--labels", "no names.txt"], "does not hold class names"),
    (["--model", "model.onnx", "--labels", "latin.txt"], "not UTF-8"),
    (["--model", "model.onnx", "--labels", "none"], "none: No such file"),
    (["--url", "http://127.0.0.1:9", "--timeout", "2"], "9 is not available"),
    (["--url", "localhost"], "not an address such as http://localhost:8501"),
    (["--grpc", "http://localhost"], "not an address such as localhost:8500"),
    (["--model", "model.onnx", "--crop-fraction", "1.5"], "--crop-fraction"),
    (["--model", "run", "--crop-fraction", "0.9", "--signature", "bytes"], "--crop-fraction: pix"),
    (["--model", "model.onnx", "--preprocessing", "none"], "none: No such file"),
    (["--model", "model.onnx", "--preprocessing", "latin.txt"], "does not say how"),
    (["--model", "model.onnx", "--preprocessing", "64.json"], "for images of 64×64, .* 32×32"),
    (["--model", "model.onnx", "--json", "--csv", "answers.csv"], "not allowed"),
    (
        ["--model", "model.onnx", "--csv", "none/a.csv"],
        "--csv none/a.csv: its folder does not exist",
    ),
    (["empty", "--model", "model.onnx"], "empty has no pictures"),
    (["*.jpg", "--model", "model.onnx"], r"nothing matches \*\.jpg"),
    (["--model", "model.onnx", "--top", "0"], "--top"),
    (["--model", "model.onnx", "--timeout", "0"], "--timeout"),
    (["--model", "model.onnx", "--timeout", "nan"], "--timeout"),
    (["--model", "run", "--scores", "logits"], "--scores logits: run.* Leave the option out"),
    (["--model", "run", "--model-version", "1"], "version 1 is for a server: .*saved_model/1"),
    (["--model", "run", "--url", "http://localhost:8501"], "not allowed"),
]


@pytest.mark.usefixtures("bad_models")
def test_a_single_bad_picture_is_bad_input(run):
    for name, message in (("cut.onnx", "is not a picture"), ("none.png", "No such file")):
        with pytest.raises(InputError, match=message):
            run(name, "--model", "model.onnx")


@pytest.mark.usefixtures("bad_models")
@pytest.mark.parametrize(("options", "message"), BAD_USE)
def test_bad_use_is_one_clear_line(run, options, message):
    with pytest.raises(InputError, match=message) as caught:
        run("seven.png", *options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "module", "model"),
    [
        ("onnxruntime", "export.runtime.providers", "model.onnx"),
        ("ai_edge_litert", "ai_edge_litert.interpreter", "litert/model.tflite"),
    ],
)
def test_a_runtime_that_is_not_installed(run, monkeypatch, package, module, model):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(InputError, match=rf"{package}\S* is not installed: pip install"):
        run("seven.png", "--model", model)


def test_nan_is_a_failure(run, folder, monkeypatch):
    monkeypatch.setattr(toys, "WEIGHTS", np.full((3, 5), np.nan, np.float32))
    toys.save_onnx(folder / "nan.onnx")
    with pytest.raises(FailedError, match=r"nan\.onnx returns NaN or infinity for seven\.png"):
        run("seven.png", "--model", "nan.onnx")


COMMAND = """
import sys
from export import predict
from training import cli
print("parsed", *sys.modules)
cli.run(lambda: predict.main([*sys.argv[1:3], "--json", "--model", sys.argv[3]]))
print("done", *sys.modules)
cli.run(lambda: predict.main([sys.argv[1], "--model", "none"]))
"""


def test_a_process_imports_what_it_needs_and_ends_with_its_status(folder, tmp_path):
    """TensorFlow alone would take `--help` beyond a second."""
    process = subprocess.run(
        [sys.executable, "-c", COMMAND, *2 * [folder / "seven.png"], "litert/model.tflite"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    parsed, *answer, done = process.stdout.strip().splitlines()
    heavy = {"tensorflow", "keras", "onnxruntime", "grpc", "ai_edge_litert"}
    assert parsed.startswith("parsed")
    assert not heavy & set(parsed.split())
    assert heavy & set(done.split()) == {"ai_edge_litert"}
    best = int(np.argmax(toys.logits_of(np.full((32, 32, 3), 7))))
    assert json.loads("\n".join(answer))["predictions"][1]["top"][0]["class"] == best
    assert process.returncode == 2
    assert process.stderr.startswith("error: none does not exist")
    assert process.stderr.count("\n") == 1
