"""`predict.py` with bad use, bad models and bad files: one clear line, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toys
from training.cli import FailedError, InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bad_models(folder):
    """Models that cannot be used, in the same folder."""
    toys.save_savedmodel(folder / "large", size=64)
    toys.save_savedmodel(folder / "default only", with_bytes=False)
    toys.save_savedmodel(folder / "four names", toys.LABELS[:4])
    (folder / "empty").mkdir()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "saved_model.pb").write_bytes(b"\xff" * 100)
    (folder / "damaged.keras").write_bytes(b"PK")
    toys.save_savedmodel(folder / "integers", dtype=tf.uint8)
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
    "damaged Keras": (["--model", "damaged.keras"], r"damaged\.keras is no model"),
    "integers": (["--model", "integers"], "integers: .*uint8"),
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
    monkeypatch.delitem(sys.modules, "export.runtime.providers", raising=False)
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
    with pytest.raises(InputError):
        run(*options)


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
