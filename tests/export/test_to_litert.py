"""The LiteRT export as a user runs it: the files, the report, what is refused."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from export import random_run, to_litert
from export.runtime.local_models import LiteRTModel
from export.targets import litert
from export.verification import trained_weights
from export.verification.source import open_source
from export.verification.verify import ValuesError, WeightsError
from training.cli import InputError
from training.data import streams
from training.runs import files as runs


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def files(run):
    return sorted(path.name for path in (run / "litert").iterdir() if path.name != ".lock")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "variant"), [("float32", ""), ("float16", ".float16"), ("int8", ".int8")]
)
def test_every_precision(run, precision, variant):
    to_litert.main(["--run", str(run), "--precision", precision, "--calibration-images", "64"])
    assert files(run) == ["labels.txt", f"model{variant}.tflite", f"verification{variant}.json"]
    report = runs.read_json(run / "litert" / f"verification{variant}.json")
    assert report["verdict"] == "verified"
    assert report["provider"] == {"asked": "cpu", "got": "CPU"}
    assert report["operators"]["CONV_2D"] == 20
    candidate = LiteRTModel(run / "litert" / f"model{variant}.tflite")
    assert candidate.labels[0] == "red horizontal"
    images = np.zeros((2, 32, 32, 3), np.float32)
    assert candidate.predict(images).logits.shape == (2, 10)


def test_a_failed_verification_keeps_the_file_aside(run, monkeypatch):
    convert = litert.convert
    other = random_run.make(run.parent / "other", seed=1) / "saved_model" / "1"
    monkeypatch.setattr(litert, "convert", lambda folder, *rest: convert(other, *rest))
    with pytest.raises(WeightsError, match="are not the trained ones"):
        to_litert.main(["--run", str(run), "--samples", "64"])
    with pytest.raises(ValuesError, match="largest difference of a logit"):
        to_litert.main(["--run", str(run), "--samples", "64", "--precision", "float16"])
    assert files(run) == [
        "labels.txt",
        "model.float16.unverified.tflite",
        "model.unverified.tflite",
        "verification.float16.json",
        "verification.json",
    ]


def test_a_stale_saved_model(run):
    other = random_run.make(run.parent / "other", seed=1)
    shutil.rmtree(run / "saved_model")
    shutil.copytree(other / "saved_model", run / "saved_model")
    with pytest.raises(WeightsError, match="are not the trained ones"):
        to_litert.main(["--run", str(run), "--samples", "8"])


def test_a_gates_scale_is_compared_as_the_converter_computes_it(original, monkeypatch):
    """It multiplies by 1 / sqrt(1), which is 1 - 2**-23 on processors with AVX-512."""
    inverse_root = np.float32(1 - 2**-23)
    monkeypatch.setattr(tf.math, "rsqrt", lambda ones: tf.constant(inverse_root * np.asarray(ones)))
    source = open_source(original)
    layers = keras_nam.fold(source.run.model).layers
    constants = {v.path: np.array(v) for layer in layers for v in layer.variables}
    scale, offset = streams.scale_and_offset(source.run.mean, source.run.std)
    constants |= {"scale": scale, "offset": offset}
    assert trained_weights.missing_from_file(source, constants, whole=False) == []
    name = "stage1_block1_nam/scale"
    constants[name] *= inverse_root
    assert trained_weights.missing_from_file(source, constants, whole=False) == []
    assert trained_weights.missing_from_file(source, constants) == [name, name]
    constants[name][0] = np.nextafter(constants[name][0], np.float32(9))
    assert trained_weights.missing_from_file(source, constants, whole=False) == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int4"], "Unknown precision 'int4'"),
        (["--samples", "0"], "--samples 0: expected 1 to 500"),
        (["--run", "nowhere"], "nowhere is no finished run"),
    ],
)
def test_bad_usage(original, arguments, message):
    where = [] if "--run" in arguments else ["--run", str(original)]
    with pytest.raises(InputError, match=message):
        to_litert.main([*where, *arguments])
    assert not (original / "litert").exists()
