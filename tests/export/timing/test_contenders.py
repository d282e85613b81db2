"""What makes contenders alike: one model, the same threads, the same device."""

import importlib.util
import shlex
import sys

import numpy as np
import pytest

from export import benchmark, to_litert, to_onnx
from export.runtime import devices
from export.runtime.signatures import Scores
from export.timing import contenders
from tests.support.networks import toys
from training.cli import InputError


@pytest.mark.parametrize(
    ("factor", "classes", "refused"),
    [(1.2, 10, False), (1.3, 10, True), (np.nan, 10, True), (1, 9, True)],
)
def test_how_much_logits_may_differ(factor, classes, refused):
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)

    def model(scale, classes):
        def predict(batch):
            logits = batch.reshape(len(batch), -1)[:, :classes] * np.float32(scale)
            return Scores(logits, logits)

        return contenders.Contender("fake", "its file", predict)

    models = [model(1, 10), model(factor, classes)]
    if refused:
        with pytest.raises(InputError, match="different models"):
            contenders.check_alike(models, images)
    else:
        contenders.check_alike(models, images)


def test_the_runs_models_and_what_is_missing(source, exported, monkeypatch):
    """A model that is missing is reported with the command that writes it."""
    from export.verification.source import open_source

    monkeypatch.setitem(sys.modules, "openvino", None)
    parsers = {"export/to_onnx.py": to_onnx.parser, "export/to_litert.py": to_litert.parser}
    opened = open_source(exported)
    found, left_out = contenders.open_contenders(opened, benchmark.MODELS, "cpu", 1)
    assert [contender.name for contender in found] == ["keras", "savedmodel", "onnx", "litert"]
    images = source.dataset.test.images[:64].astype(np.float32)
    reference, *others = (contender.predict(images) for contender in found)
    for scores in others:
        np.testing.assert_allclose(scores.logits, reference.logits, atol=5e-5)
        np.testing.assert_allclose(scores.probabilities, reference.probabilities, atol=1e-5)
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
        assert (args.precision, args.run) == (precision, str(exported))


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")
def test_openvino_computes_in_float32(source, exported):
    images = source.dataset.test.images[:64].astype(np.float32)
    path = exported / "onnx" / "model.onnx"
    found = contenders.OPEN["openvino"](source, path, "cpu", 1)(images)
    # In bfloat16, its default on CPUs with AMX, they differ by 1e-2 of the largest.
    np.testing.assert_allclose(found.logits, source.true_logits(images), atol=5e-5)


def test_onnx_runtime_has_the_threads_and_the_provider(tmp_path):
    toys.save_onnx(tmp_path / "model.onnx")
    predict = contenders.OPEN["onnx"](None, tmp_path / "model.onnx", "cpu", 3)
    options = predict.__self__._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    with pytest.raises(InputError, match="--provider cuda"):
        contenders.OPEN["onnx"](None, tmp_path / "model.onnx", "cuda", 3)


def test_an_interpreter_for_each_batch(monkeypatch):
    opened = []

    class Interpreter:
        def __init__(self, path, threads):
            opened.append((path, threads))
            self.sizes = set()

        def predict(self, images):
            self.sizes.add(len(images))
            assert len(self.sizes) == 1
            return len(images)

    monkeypatch.setattr(contenders, "LiteRTModel", Interpreter)
    predict = contenders.OPEN["litert"](None, "model.tflite", "cpu", 2)
    assert [predict(np.zeros(size)) for size in (1, 8, 1, 8)] == [1, 8, 1, 8]
    assert opened == 2 * [("model.tflite", 2)]


def test_tensorflow_has_the_threads_and_the_device(monkeypatch):
    calls = []
    config = devices.tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: ["gpu 0", "gpu 1"])
    for module, name in (
        (config, "set_visible_devices"),
        (config.experimental, "enable_tensor_float_32_execution"),
        (config.threading, "set_intra_op_parallelism_threads"),
        (config.threading, "set_inter_op_parallelism_threads"),
    ):
        monkeypatch.setattr(module, name, lambda *args, name=name: calls.append((name, *args)))
    settings = [("enable_tensor_float_32_execution", False)]
    settings += [(f"set_{part}_op_parallelism_threads", 3) for part in ("intra", "inter")]
    for device, visible in (("CPU", []), ("GPU", ["gpu 0"])):
        devices.prepare_tensorflow(device, 3)
        assert calls == [("set_visible_devices", visible, "GPU"), *settings]
        calls.clear()
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: [])
    with pytest.raises(InputError, match="TensorFlow finds no GPU"):
        devices.prepare_tensorflow("GPU", 2)
