"""`predict.py --model model.tflite`: the known answers, without TensorFlow, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils
from PIL import Image

from export.targets import litert
from tests.support import toys
from training.cli import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(folder):
    """The toy as a LiteRT file, beside its class names."""
    path = folder / "litert" / "model.tflite"
    path.parent.mkdir()
    path.write_bytes(litert.convert(folder / "run" / "saved_model" / "2", "float32"))
    (folder / "litert" / "labels.txt").write_text("".join(f"{name}\n" for name in toys.LABELS))
    return path


@pytest.mark.usefixtures("model")
def test_the_known_answers(run, folder):
    found = run("blue.png", "grey.png", "--top", "5", "--json", "--model", "litert/model.tflite")
    assert found["model"] == "litert/model.tflite"
    assert [prediction["image"] for prediction in found["predictions"]] == ["blue.png", "grey.png"]
    for prediction in found["predictions"]:
        logits = toys.logits_of(np.asarray(Image.open(folder / prediction["image"])))
        order = np.argsort(-logits)
        top = prediction["top"]
        assert [entry["label"] for entry in top] == [toys.LABELS[i] for i in order]
        # float32 sums over 1,024 pixels
        np.testing.assert_allclose([entry["logit"] for entry in top], logits[order], atol=1e-5)
        np.testing.assert_allclose(
            [entry["probability"] for entry in top], toys.softmax(logits)[order], atol=1e-5
        )


def without_signatures(content):
    """Returns a model as TensorFlow Lite wrote it before there were signatures."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    model.signatureDefs = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def large(folder):
    """Returns a model of images of 64×64 pixels."""
    toys.save_savedmodel(folder, size=64)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=["serving_default"]
    )
    return converter.convert()


@pytest.fixture(scope="module")
def bad_models(folder, model):
    whole = model.read_bytes()
    (folder / "cut.tflite").write_bytes(whole[: len(whole) // 2])
    (folder / "onnx.tflite").write_bytes((folder / "model.onnx").read_bytes())
    (folder / "old.tflite").write_bytes(without_signatures(whole))
    (folder / "large.tflite").write_bytes(large(folder / "large"))
    (folder / "four").mkdir()
    (folder / "four" / "model.tflite").write_bytes(whole)
    (folder / "four" / "labels.txt").write_text("a\nb\nc\nd\n")


BAD_USE = {
    "cut": (["--model", "cut.tflite"], r"cut\.tflite is no valid LiteRT model: .*Flatbuffer"),
    "ONNX": (["--model", "onnx.tflite"], r"onnx\.tflite is no valid LiteRT model: .*Flatbuffer"),
    "none": (["--model", "none.tflite"], r"none\.tflite does not exist: give .* a LiteRT file"),
    "encoded": (
        ["--model", "litert/model.tflite", "--signature", "bytes"],
        r"no signature serving_bytes \(it has: serving_default\)",
    ),
    "no signature": (["--model", "old.tflite"], r"no signature serving_default \(it has: none\)"),
    "large": (["--model", "large.tflite"], r"image \[N,64,64,3\] → .*image \[N,32,32,3\]"),
    "four names": (["--model", "four/model.tflite"], "names 4 classes, .* answers 5"),
}


@pytest.mark.usefixtures("bad_models")
@pytest.mark.parametrize("kind", BAD_USE)
def test_bad_use_is_one_clear_line(run, kind):
    options, message = BAD_USE[kind]
    with pytest.raises(InputError, match=message) as caught:
        run("seven.png", *options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("model")
def test_runtime_that_is_not_installed(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "ai_edge_litert.interpreter", raising=False)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(InputError, match=r"ai_edge_litert\S* is not installed: pip install"):
        run("seven.png", "--model", "litert/model.tflite")


COMMAND = """
import sys
from export import predict
predict.main(sys.argv[1:])
print(*sys.modules, sep="\\n", file=open("modules.txt", "w"))
"""


def test_neither_tensorflow_nor_a_word_too_many(folder, model, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", COMMAND, folder / "seven.png", "--json", "--model", model],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    best = int(np.argmax(toys.logits_of(np.full((32, 32, 3), 7))))
    assert json.loads(process.stdout)["predictions"][0]["top"][0]["class"] == best
    modules = set((tmp_path / "modules.txt").read_text().split())
    assert "ai_edge_litert" in modules
    assert not {"tensorflow", "keras", "onnxruntime", "grpc"} & modules
