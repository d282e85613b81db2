"""What the tests share: a run; models and pictures for `predict.py`, and that command."""

import json

import numpy as np
import pytest
from PIL import Image

from export import predict, random_run
from tests.support import toys


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A finished run of r18w4_nam with random weights, to be read or copied."""
    return random_run.make(tmp_path_factory.mktemp("run") / "r18w4_nam")


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
