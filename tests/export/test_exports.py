"""The exports as a user runs them: the files, the report, and bad usage."""

import json
import shutil
import sys
import tempfile
import types
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

from export import to_litert, to_onnx
from export.runtime.local_models import LiteRTModel
from export.targets import exporter
from export.targets import onnx as onnx_target
from export.verification.verify import VerificationError
from tests.support import random_run
from tests.support.networks import gated_networks
from training.cli import InputError
from training.data import datasets

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(small, tmp_path):
    return shutil.copytree(small, tmp_path / "run")


def files(run, name="onnx"):
    return sorted(path.name for path in (run / name).iterdir() if path.name != ".lock")


def report_of(run, name="onnx/verification.json"):
    return json.loads((run / name).read_text())


def test_the_report(exported):
    assert files(exported) == ["model.onnx", "preprocessing.json", "verification.json"]
    report = report_of(exported)
    assert report["verdict"] == "verified"
    assert report["truth"] == "the run's Keras model in float32"
    assert list(report["stages"]) == ["weights", "interface", "values", "accuracy"]
    assert all(stage["passed"] for stage in report["stages"].values())
    assert report["stages"]["values"]["largest_absolute_difference"] < 5e-5
    assert report["stages"]["values"]["images"] == 500
    assert report["provider"] == {"asked": "cpu", "got": "CPUExecutionProvider"}
    assert list(report["nodes"]) == ["CPUExecutionProvider"]
    assert report["opset"] == 17
    assert report["transposes"] == report["operators"]["Transpose"] == 1
    assert report["bytes"] == (exported / "onnx" / "model.onnx").stat().st_size


def test_the_litert_report(exported):
    assert files(exported, "litert") == [
        "labels.txt",
        "model.tflite",
        "preprocessing.json",
        "verification.json",
    ]
    report = report_of(exported, "litert/verification.json")
    assert report["verdict"] == "verified"
    assert report["provider"] == {"asked": "cpu", "got": "CPU"}
    assert report["operators"]["CONV_2D"] == 4
    assert LiteRTModel(exported / "litert" / "model.tflite").labels[0] == "red horizontal"


def test_the_file_describes_itself(exported):
    model = onnx.load(exported / "onnx" / "model.onnx")
    tensors = {
        tensor.name: [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim]
        for tensor in (*model.graph.input, *model.graph.output)
    }
    assert tensors == {
        "image": ["batch", 32, 32, 3],
        "logits": ["batch", 10],
        "probabilities": ["batch", 10],
    }
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["class_names"])[0] == "red horizontal"
    assert json.loads(metadata["mean"]) == list(random_run.RECIPE.mean)
    assert metadata["arch"] == "r18w4_nam"
    assert "[batch,32,32,3]" in metadata["input"]
    assert "licence" in metadata["data_licence"]
    assert {"BatchNormalization"} >= {
        node.op_type for node in model.graph.node if "bn" in node.name and node.op_type != "Conv"
    }
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    graph = len(model.SerializeToString()) - 4 * parameters
    assert graph < 10_000


def test_no_shipped_file_names_a_folder_of_this_machine(exported, small):
    telling = [b"telling-", *(bytes(path) for path in (small.parent, ROOT, Path.home()))]
    telling += [sys.prefix.encode(), tempfile.gettempdir().encode(), b"site-packages"]
    shipped = [
        path
        for name in ("saved_model", "onnx", "litert")
        for path in (exported / name).rglob("*")
        if path.is_file()
    ]
    assert {"model.onnx", "model.tflite", "saved_model.pb", "fingerprint.pb", "labels.txt"} <= {
        path.name for path in shipped
    }
    found = {(path.name, word) for path in shipped for word in telling if word in path.read_bytes()}
    assert found == set()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize(
    ("command", "name", "suffix"), [(to_onnx, "onnx", "onnx"), (to_litert, "litert", "tflite")]
)
def test_other_precisions(run, command, name, suffix, precision):
    command.main(["--run", str(run), "--precision", precision, "--calibration-images", "64"])
    assert {f"model.{precision}.{suffix}", f"verification.{precision}.json"} <= {*files(run, name)}
    report = report_of(run, f"{name}/verification.{precision}.json")
    assert (report["verdict"], report["precision"]) == ("verified", precision)


def break_kernel(model, images):
    """Changes the sign of a channel of the first convolution."""
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    array = onnx.numpy_helper.to_array(kernel).copy()
    array[0] *= -1
    kernel.CopyFrom(onnx.numpy_helper.from_array(array, kernel.name))
    return model


def test_a_failed_verification_keeps_the_files(exported, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(exported, tmp_path / "run")
    monkeypatch.setitem(onnx_target.PRECISIONS, "float32", break_kernel)
    with pytest.raises(VerificationError, match="not verified, values: largest absolute diff"):
        to_onnx.main(["--run", str(run), "--samples", "64"])
    assert files(run) == [
        "model.previous.onnx",
        "model.unverified.onnx",
        "preprocessing.json",
        "verification.json",
    ]
    report = report_of(run)
    assert report["verdict"] == "not verified"
    assert report["file"] == "model.unverified.onnx"
    assert report["stages"]["values"]["passed"] is False
    assert "FAILED" in capsys.readouterr().out


def test_a_stale_saved_model(run):
    model = keras.saving.load_model(run / "best.keras")
    model.layers[-1].bias.assign(model.layers[-1].bias + 1e-6)
    model.save(run / "best.keras")
    with pytest.raises(VerificationError, match="not verified, weights"):
        to_onnx.main(["--run", str(run), "--samples", "8"])
    assert files(run) == ["model.unverified.onnx", "verification.json"]


@pytest.mark.parametrize(
    "attention",
    ["cbam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bam", "nam_full"))],
)
def test_unfolded_saved_models(tmp_path, attention):
    model = gated_networks.network(attention)
    run = random_run.make(tmp_path / "run", fold=False, model=model)
    to_onnx.main(["--run", str(run), "--samples", "64"])
    assert report_of(run)["verdict"] == "verified"


def test_a_sample_is_drawn_from_all_classes():
    """Arrays may be ordered by class."""
    labels = np.repeat([0, 1], 1250)
    test = datasets.Split(np.arange(len(labels)), labels)
    source = types.SimpleNamespace(dataset=types.SimpleNamespace(test=test), no_labels=None)
    images, found = exporter.sample(source, "float32")
    assert len(images) == len(set(images)) == 1000
    assert abs(np.mean(found) - 0.5) < 0.05
    np.testing.assert_array_equal(found, labels[images])
    np.testing.assert_array_equal(exporter.sample(source, "int8")[0], test.images)


def test_counts_and_opsets_out_of_range(source):
    for count in (0, 501):
        with pytest.raises(InputError, match=f"--samples {count}: expected 1 to 500"):
            exporter.sample(source, "float32", count)
    for count in (0, 2001):
        with pytest.raises(InputError, match=f"--calibration-images {count}: expected 1 to 2000"):
            exporter.calibration_images(source, count)
    for opset in (7, 99):
        with pytest.raises(InputError, match=rf"--opset {opset}: expected 13 to \d+"):
            onnx_target.convert(source, opset)


@pytest.mark.parametrize("where", ["--run", "--saved-model"])
def test_a_data_set_is_refused_for_a_run(small, where):
    path = small if where == "--run" else small / "saved_model"
    with pytest.raises(InputError, match=r"--dataset cifar10: .* is a run"):
        to_onnx.main([where, str(path), "--dataset", "cifar10"])
    assert not (small / "onnx").exists()


@pytest.mark.parametrize("command", [to_onnx, to_litert])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--provider", "cuda"], "--provider cuda: ONNX Runtime .* here has .*onnxruntime-gpu"),
        (["--provider", "tpu"], "Unknown provider 'tpu'"),
        (["--precision", "int4"], "Unknown precision 'int4'.*Did you mean 'int8'"),
        (["--run", "nowhere"], r"nowhere is not a finished run: .* no result\.json"),
        (["--saved-model", "nowhere"], "nowhere does not hold a SavedModel"),
    ],
)
def test_bad_usage(small, command, arguments, message):
    if "--provider" in arguments and command is to_litert:
        message = "Unknown option --provider"
    with pytest.raises(InputError, match=message):
        command.main(arguments)
    assert not (small / "onnx").exists()
