"""The ONNX export as a user runs it: the files, the report, what is refused."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import random_run, to_litert, to_onnx
from export.targets import onnx as onnx_target
from export.verification import release
from export.verification.verify import AccuracyError, InterfaceError, ValuesError, WeightsError
from tests.support import toys
from training.cli import InputError
from training.data import synthetic
from training.runs import files as runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture(scope="module")
def exported(original, tmp_path_factory):
    """A run with its float32 export."""
    run = shutil.copytree(original, tmp_path_factory.mktemp("exported") / "run")
    to_onnx.main(["--run", str(run), "--provider", "cpu"])
    return run


def files(run):
    return sorted(path.name for path in (run / "onnx").iterdir() if path.name != ".lock")


def report_of(run, name="verification.json"):
    return json.loads((run / "onnx" / name).read_text())


def test_the_report_says_what_was_verified(exported):
    assert files(exported) == ["model.onnx", "verification.json"]
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
    assert "licence" in metadata["data_licence"]
    assert {"BatchNormalization"} >= {
        node.op_type for node in model.graph.node if "bn" in node.name and node.op_type != "Conv"
    }


def test_the_file_is_not_larger_than_its_weights(exported):
    model = onnx.load(exported / "onnx" / "model.onnx")
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    graph = len(model.SerializeToString()) - 4 * parameters
    assert graph < 60_000  # of r50_nam, 2% would be 1.9 million


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_other_precisions(run, precision):
    to_onnx.main(["--run", str(run), "--precision", precision, "--calibration-images", "64"])
    assert files(run) == [f"model.{precision}.onnx", f"verification.{precision}.json"]
    report = report_of(run, f"verification.{precision}.json")
    assert report["verdict"] == "verified"
    assert report["precision"] == precision


def break_kernel(model, images):
    """A model whose first convolution lost a sign."""
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    array = onnx.numpy_helper.to_array(kernel).copy()
    array[0] *= -1
    kernel.CopyFrom(onnx.numpy_helper.from_array(array, kernel.name))
    return model


def test_a_failed_verification_keeps_the_file_aside(exported, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(exported, tmp_path / "run")
    monkeypatch.setitem(onnx_target.CONVERTED, "float32", break_kernel)
    with pytest.raises(ValuesError, match="not verified, values: the largest difference"):
        to_onnx.main(["--run", str(run)])
    assert files(run) == ["model.previous.onnx", "model.unverified.onnx", "verification.json"]
    report = report_of(run)
    assert report["verdict"] == "not verified"
    assert report["file"] == "model.unverified.onnx"
    assert report["stages"]["values"]["passed"] is False
    assert "FAILED" in capsys.readouterr().out
    monkeypatch.undo()
    to_onnx.main(["--run", str(run)])
    assert files(run) == ["model.onnx", "model.previous.onnx", "verification.json"]


def test_a_stale_saved_model(run, tmp_path):
    other = random_run.make(tmp_path / "other", seed=1)
    shutil.rmtree(run / "saved_model")
    shutil.copytree(other / "saved_model", run / "saved_model")
    with pytest.raises(WeightsError, match="are not the trained ones"):
        to_onnx.main(["--run", str(run), "--samples", "8"])


def test_a_result_of_other_weights(run):
    result = runs.read_json(run / "result.json")
    runs.write_json(run / "result.json", {**result, "top1": result["top1"] + 0.01})
    with pytest.raises(AccuracyError, match=r"result\.json says .*other weights, or other data"):
        to_onnx.main(["--run", str(run)])


def test_class_names_of_another_set(run, monkeypatch):
    metadata = onnx_target.metadata

    def shifted(source):
        names = source.class_names
        return {**metadata(source), "class_names": json.dumps(names[1:] + names[:1])}

    monkeypatch.setattr(onnx_target, "metadata", shifted)
    with pytest.raises(InterfaceError, match="class names"):
        to_onnx.main(["--run", str(run), "--samples", "8"])


@pytest.mark.parametrize("arch", ["r18w4_bam", "r18w4_cbam", "mbv2w8_nam_full"])
def test_unfolded_saved_models(tmp_path, arch):
    run = random_run.make(tmp_path / "run", arch, fold=False)
    to_onnx.main(["--run", str(run), "--samples", "64"])
    assert report_of(run)["verdict"] == "verified"


def test_a_saved_model_of_no_run(tmp_path):
    folder = tmp_path / "toy" / "1"
    toys.save_savedmodel(folder, [f"class {i}" for i in range(5)])
    arguments = ["--saved-model", str(folder), "--dataset", "synthetic", "--samples", "64"]
    to_onnx.main(arguments)
    report = json.loads((tmp_path / "toy" / "onnx" / "verification.json").read_text())
    assert report["truth"] == "the SavedModel alone, which belongs to no run"
    assert report["verdict"] == "verified"


@pytest.fixture
def elsewhere(original, tmp_path, monkeypatch):
    """A run in a folder with a telling name, its data in another one."""
    load = synthetic.load

    def load_from_folder(name, data_dir):
        *parts, source = load(name, data_dir)
        return *parts, f"{source} in {tmp_path}/telling-data"

    monkeypatch.setattr(synthetic, "load", load_from_folder)
    return shutil.copytree(original, tmp_path / "telling-run")


def test_no_file_that_is_shipped_names_a_folder_of_this_machine(elsewhere, original):
    for export in (to_onnx, to_litert):
        export.main(["--run", str(elsewhere), "--samples", "16"])
    telling = [b"telling-", *(bytes(path) for path in (original.parent, ROOT, Path.home()))]
    telling += [sys.prefix.encode(), tempfile.gettempdir().encode(), b"site-packages"]
    shipped = [
        path
        for name in ("saved_model", "onnx", "litert")
        for path in (elsewhere / name).rglob("*")
        if path.is_file()
    ]
    assert {"model.onnx", "model.tflite", "saved_model.pb", "fingerprint.pb", "labels.txt"} <= {
        path.name for path in shipped
    }
    found = {(path.name, word) for path in shipped for word in telling if word in path.read_bytes()}
    assert found == set()


def test_a_full_disk_leaves_nothing(run, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.files, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        to_onnx.main(["--run", str(run), "--samples", "8"])
    assert [name for name in files(run) if "writing" in name] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "99"], r"--opset 99: expected 13 to \d+"),
        (["--opset", "7"], r"--opset 7: expected"),
        (["--provider", "cuda"], "--provider cuda: ONNX Runtime .* here has .*onnxruntime-gpu"),
        (["--provider", "tpu"], "Unknown provider 'tpu'"),
        (["--precision", "int4"], "Unknown precision 'int4'.*Did you mean 'int8'"),
        (["--samples", "0"], "--samples 0: expected 1 to 500"),
        (["--samples", "501"], "--samples 501: expected 1 to 500"),
        (["--calibration-images", "0"], "--calibration-images 0: expected 1 to 2000"),
        (["--run", "nowhere"], r"nowhere is no finished run: it has no result\.json"),
        (["--saved-model", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_usage(original, arguments, message):
    where = [] if "--run" in arguments or "--saved-model" in arguments else ["--run", str(original)]
    with pytest.raises(InputError, match=message):
        to_onnx.main([*where, *arguments])
    assert not (original / "onnx").exists()
