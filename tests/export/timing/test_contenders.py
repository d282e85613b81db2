"""What makes contenders alike: one model, the same threads, the same device."""

import numpy as np
import pytest

from export.runtime import devices
from export.runtime.signatures import Scores
from export.timing import contenders
from tests.support import toys
from training.cli import InputError


@pytest.mark.parametrize(("factor", "refused"), [(1.2, False), (1.3, True), (np.nan, True)])
def test_how_much_logits_may_differ(factor, refused):
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)

    def model(scale):
        def predict(batch):
            logits = batch.reshape(len(batch), -1)[:, :10] * np.float32(scale)
            return Scores(logits, logits)

        return contenders.Contender("fake", "its file", predict)

    if refused:
        with pytest.raises(InputError, match="different models"):
            contenders.check_alike([model(1), model(factor)], images)
    else:
        contenders.check_alike([model(1), model(factor)], images)


def test_onnx_runtime_has_the_threads_and_the_provider(tmp_path):
    toys.save_onnx(tmp_path / "model.onnx")
    predict = contenders._onnx(None, tmp_path / "model.onnx", "cpu", 3)
    options = predict.__self__._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    with pytest.raises(InputError, match="--provider cuda"):
        contenders._onnx(None, tmp_path / "model.onnx", "cuda", 3)


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
    predict = contenders._litert(None, "model.tflite", "cpu", 2)
    assert [predict(np.zeros(size)) for size in (1, 8, 1, 8)] == [1, 8, 1, 8]
    assert opened == 2 * [("model.tflite", 2)]


def test_tensorflow_has_the_threads_and_the_device(monkeypatch):
    calls = []
    config = devices.tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: ["gpu 0", "gpu 1"])
    for module, name in (
        (config, "set_visible_devices"),
        (config.experimental, "set_memory_growth"),
        (config.experimental, "enable_tensor_float_32_execution"),
        (config.threading, "set_intra_op_parallelism_threads"),
        (config.threading, "set_inter_op_parallelism_threads"),
    ):
        monkeypatch.setattr(module, name, lambda *args, name=name: calls.append((name, *args)))
    threads = [(f"set_{part}_op_parallelism_threads", 3) for part in ("intra", "inter")]
    devices.prepare_tensorflow("CPU", 3)
    assert calls == [("set_visible_devices", [], "GPU"), *threads]
    calls.clear()
    devices.prepare_tensorflow("GPU", 3)
    assert calls == [
        ("set_visible_devices", ["gpu 0"], "GPU"),
        ("set_memory_growth", "gpu 0", True),
        ("enable_tensor_float_32_execution", False),
        *threads,
    ]


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(devices.tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(InputError, match="TensorFlow sees no GPU here"):
        devices.prepare_tensorflow("GPU", 2)
