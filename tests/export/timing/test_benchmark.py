"""The benchmark as a user runs it: the files, what is left out, what is refused."""

import importlib.util
import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import onnx
import pytest
from rich.console import Console

from export import benchmark, random_run, to_litert, to_onnx
from export.targets import litert
from export.targets import onnx as onnx_target
from export.timing import contenders
from export.timing import report as benchmark_report
from export.timing import rounds as timing
from export.verification.source import open_source
from tests.support import toys
from training.cli import InputError

ROOT = Path(__file__).parents[3]
OPENVINO = ["openvino"] if importlib.util.find_spec("openvino") else []


def add_onnx(run):
    (run / "onnx").mkdir(exist_ok=True)
    onnx.save(onnx_target.convert(open_source(run), opset=17), run / "onnx" / "model.onnx")


@pytest.fixture(scope="module")
def original(original, tmp_path_factory):
    """A run with its float32 exports."""
    run = shutil.copytree(original, tmp_path_factory.mktemp("benchmark") / "r18w4_nam")
    add_onnx(run)
    (run / "litert").mkdir()
    content = litert.convert(open_source(run).saved_model, "float32")
    (run / "litert" / "model.tflite").write_bytes(content)
    return run


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command here, where TensorFlow runs already; returns what it printed."""

    def command(*arguments):
        benchmark.main(["--rounds", "10", *map(str, arguments)])
        return capsys.readouterr().out

    command.prepared = []
    monkeypatch.setattr(
        benchmark_report, "prepare_tensorflow", lambda *args: command.prepared.append(args)
    )
    return command


def start(*arguments):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "export/benchmark.py", *arguments],
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_command_leaves_its_report(run):
    arguments = ["--batches", "3,1", "--rounds", "11", "--threads", "1"]
    done = start("--run", run, *arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (run / "benchmark").iterdir()) == [
        "benchmark.json",
        "benchmark.png",
    ]
    report = json.loads((run / "benchmark" / "benchmark.json").read_text())
    models = ["keras", "savedmodel", "onnx", *OPENVINO, "litert"]
    assert list(report["files"]) == models
    assert [(row["batch"], row["contender"]) for row in report["results"]] == [
        (size, model) for size in (3, 1) for model in models
    ]
    assert (report["threads"], report["rounds"], report["provider"]) == (1, 11, "cpu")
    assert report["environment"]["versions"]["tensorflow"]
    assert "cores" in report["environment"]["machine"]
    for row in report["results"]:
        milliseconds = row["milliseconds"]
        assert 0 < milliseconds["p10"] <= milliseconds["median"] <= milliseconds["p99"] < 1000
        assert row["images_per_second"] == pytest.approx(
            1e3 * row["batch"] / milliseconds["median"], rel=0.01
        )
    assert [
        row["speedup"]["median"] for row in report["results"] if row["contender"] == "keras"
    ] == [1, 1]
    assert "1 thread, 11 rounds" in done.stdout
    assert report["left_out"].keys() == set(benchmark.MODELS) - set(models)
    for name, reason in report["left_out"].items():
        assert f"left out: {name}: {reason}\n" in done.stdout
    assert matplotlib.image.imread(run / "benchmark" / "benchmark.png").std() > 0.05


def test_what_is_missing_is_left_out_with_the_command_that_writes_it(original, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    source = open_source(original)
    parsers = {"export/to_onnx.py": to_onnx.parser, "export/to_litert.py": to_litert.parser}
    found, left_out = contenders.open_contenders(source, benchmark.MODELS, "cpu", 1)
    assert [contender.name for contender in found] == ["keras", "savedmodel", "onnx", "litert"]
    assert left_out.pop("openvino") == "openvino is not installed"
    assert list(left_out) == [
        *("onnx-float16", "onnx-int8", "openvino-int8", "litert-float16", "litert-int8")
    ]
    for name, reason in left_out.items():
        kind, _, precision = name.partition("-")
        python, script, *arguments = shlex.split(reason.partition("run ")[2])
        args = parsers[script]().parse_args(arguments)
        assert python == "python"
        assert script == f"export/to_{kind.replace('openvino', 'onnx')}.py"
        assert args.precision == precision
        assert args.run == str(original)


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed")
def test_openvino_computes_in_float32(original):
    source = open_source(original)
    images = source.dataset.test.images[:64].astype(np.float32)
    found, _ = contenders.open_contenders(source, ["keras", "openvino"], "cpu", 1)
    keras, openvino = (contender.predict(images) for contender in found)
    # In bfloat16, its default on CPUs with AMX, they differ by 1e-2 of the largest.
    np.testing.assert_allclose(openvino.logits, keras.logits, atol=5e-5)
    np.testing.assert_allclose(openvino.probabilities, keras.probabilities, atol=1e-5)


def test_models_and_output_are_those_asked_for(run, tmp_path, command):
    printed = command("--run", run, "--models", "onnx,onnx", "--batches", "2", "--output",
                      tmp_path / "else" / "where")  # fmt: skip
    report = json.loads((tmp_path / "else" / "where" / "benchmark.json").read_text())
    assert [row["contender"] for row in report["results"]] == ["keras", "onnx"]
    assert report["left_out"] == {}
    assert "left out" not in printed
    assert not (run / "benchmark").exists()


def test_what_is_measured_is_real_images(run, command, monkeypatch):
    measured = {}

    def measure(models, batches, rounds):
        measured.update(batches)
        return {(name, size): np.ones(rounds) for size in batches for name in models}

    monkeypatch.setattr(timing, "measure", measure)
    command("--run", run, "--batches", "5,2", "--threads", "3")
    images = open_source(run).dataset.test.images
    assert list(measured) == [5, 2]
    for size, batch in measured.items():
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, images[:size])
    assert command.prepared == [("CPU", 3)]


@pytest.mark.parametrize("change", ["weights", "classes"])
def test_another_model_is_not_compared(run, tmp_path, command, change):
    if change == "weights":
        add_onnx(random_run.make(tmp_path / "other", seed=1))
        shutil.copy(tmp_path / "other" / "onnx" / "model.onnx", run / "onnx")
    else:
        toys.save_onnx(run / "onnx" / "model.onnx")
    message = {
        "weights": r"model\.onnx and .*best\.keras differ by \d+%",
        "classes": r"model\.onnx has 5 classes, but .*best\.keras has 10",
    }
    with pytest.raises(InputError, match=message[change]):
        command("--run", run, "--batches", "1")
    assert not (run / "benchmark").exists()


def printed(seconds):
    """What is printed for two models of these times."""
    seconds = {key: np.array(values) for key, values in seconds.items()}
    report = {
        "run": "runs/some",
        "provider": "cpu",
        "threads": 2,
        "rounds": 10,
        "results": timing.summarize(seconds, "keras"),
    }
    file = io.StringIO()
    benchmark_report.show(report, Console(file=file, width=80))
    return file.getvalue()


def test_the_table_marks_what_is_noisy():
    steady = np.full(10, 0.002)
    swaying = np.linspace(0.003, 0.005, 10)
    text = printed({("keras", 4): steady, ("litert-float16", 4): swaying})
    keras, litert = (
        next(line for line in text.splitlines() if name in line)
        for name in ("keras  ", "litert-float16")
    )
    assert keras.split() == ["keras", "4", "2.00", "2.00", "2.00", "2.00", "2,000", "1.00"]
    assert litert.split() == [
        *("litert-float16", "4", "~4.00", "3.20", "4.80", "4.98", "~1,000", "~0.50")
    ]
    assert "~ noisy: " in text


def test_a_table_without_noise_says_nothing_of_it():
    text = printed({("keras", 4): np.full(10, 0.002), ("onnx", 4): np.full(10, 0.001)})
    assert "~" not in text
    assert "2.00" in text


def test_models_are_those_of_the_device_each_once():
    assert benchmark._models("onnx,keras,onnx", "GPU") == ("keras", "onnx")
    assert benchmark._models(None, "CPU") == benchmark.MODELS
    on_gpu = ("keras", "savedmodel", "onnx", "onnx-float16", "onnx-int8")
    assert benchmark._models(None, "GPU") == on_gpu


def test_each_model_has_a_way_to_open_it():
    assert {name.partition("-")[0] for name in benchmark.MODELS} == contenders.OPEN.keys()
    assert contenders.OPEN.keys() == benchmark_report.COLOURS.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "onnx,onnx-int4"], "Unknown model 'onnx-int4'.*Did you mean 'onnx-int8'"),
        (["--models", ""], "Unknown model ''"),
        (["--batches", "1,0"], "--batches 1,0: received '0'"),
        (["--batches", "1,,8"], "--batches 1,,8: received ''"),
        (["--batches", "501"], "--batches 501: expected up to 500"),
        (["--rounds", "9"], "--rounds 9: expected 10 or more"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--provider", "gpu"], "Unknown provider 'gpu'; there are cpu, cuda, tensorrt, openvino"),
        (["--provider", "cuda"], "--provider cuda: ONNX Runtime .* here has .*onnxruntime-gpu"),
        (["--provider", "cuda", "--models", "litert"], "litert runs on the CPU, .* on the GPU"),
        (["--provider", "cuda", "--models", "openvino"], "openvino runs on the CPU"),
        (["--run", "nowhere"], r"nowhere is no finished run: it has no result\.json"),
    ],
)
def test_bad_usage(original, command, arguments, message):
    where = [] if "--run" in arguments else ["--run", original]
    with pytest.raises(InputError, match=message):
        command(*where, *arguments)
    assert not (original / "benchmark").exists()


def test_bad_usage_is_one_line():
    done = start("--rounds", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --rounds 1: expected 10 or more\n"
