"""What the tests share: a run and its exports; models and pictures for `predict.py`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from export import predict, to_litert, to_onnx
from export.targets import litert
from export.targets import onnx as onnx_target
from export.verification.source import open_source
from tests.support import random_run
from tests.support.networks import gated_networks, toys
from training.data import synthetic


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """The index and the decoded pictures are not left in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A finished run of r18w4_nam with random weights, to be read or copied."""
    return random_run.make(tmp_path_factory.mktemp("run") / "r18w4_nam")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A finished run of two gated convolutions, which is opened and exported in a second."""
    folder = tmp_path_factory.mktemp("small") / "run"
    return random_run.make(folder, model=gated_networks.network())


@pytest.fixture(scope="session")
def source(original):
    """The run's `Source`."""
    return open_source(original)


@pytest.fixture(scope="session")
def float32_onnx(source):
    """The run's ONNX graph, to be read or copied."""
    return onnx_target.convert(source, opset=17)


@pytest.fixture(scope="session")
def litert_files(source, tmp_path_factory):
    """Precision -> path of the run's LiteRT file, each in its own folder."""
    folder = tmp_path_factory.mktemp("litert")
    calibration = source.dataset.train.images[:64].astype(np.float32)
    paths = {}
    for precision in litert.PRECISIONS:
        paths[precision] = folder / precision / "model.tflite"
        paths[precision].parent.mkdir()
        paths[precision].write_bytes(litert.convert(source.classify, precision, calibration))
    return paths


@pytest.fixture(scope="session")
def exported(small, tmp_path_factory):
    """A copy of the small run with its float32 exports, made in folders with telling names."""
    folder = tmp_path_factory.mktemp("exported")
    run = shutil.copytree(small, folder / "telling-run")
    load = synthetic.load

    def load_from_folder(name, data_dir):
        *parts, source = load(name, data_dir)
        return *parts, f"{source} in {folder}/telling-data"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "load", load_from_folder)
        to_onnx.main(["--run", str(run), "--provider", "cpu"])
        to_litert.main(["--run", str(run), "--samples", "64"])
    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A run folder with versions 1 (other labels) and 2, an ONNX and a LiteRT file, pictures."""
    folder = tmp_path_factory.mktemp("predict")
    for version, labels in (("1", list("vwxyz")), ("2", toys.LABELS)):
        toys.save_savedmodel(folder / "run" / "saved_model" / version, labels)
    toys.save_onnx(folder / "model.onnx")
    (folder / "litert").mkdir()
    toys.save_litert(folder / "litert" / "model.tflite", folder / "run" / "saved_model" / "2")
    (folder / "litert" / "labels.txt").write_text("\n".join(toys.LABELS) + "\n")
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
