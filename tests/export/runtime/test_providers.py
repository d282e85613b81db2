"""Execution providers: the one that was asked for, or an error that says what is missing."""

import numpy as np
import onnxruntime
import pytest

from export.runtime import providers
from training.cli import InputError

CUDA, OPENVINO = "CUDAExecutionProvider", providers.PROVIDERS["openvino"][0]


class Fallen:
    """A session of a wheel for GPUs on a machine without one: it runs on the CPU."""

    asked = ()

    def __init__(self, path, options, providers):
        Fallen.asked = providers

    def get_providers(self):
        return [providers.CPU]


@pytest.fixture
def gpu_wheel(monkeypatch):
    available = [CUDA, OPENVINO, providers.CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)


def test_the_cpu(folder, tmp_path):
    path = folder / "model.onnx"
    for asked in ("cpu", "auto"):
        assert providers.open_session(path, asked).get_providers()[0] == providers.CPU
    feeds = {"image": np.zeros((1, 32, 32, 3), np.float32)}
    assert providers.nodes_by_provider(path, "cpu", feeds) == {providers.CPU: 4}
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.onnx is not a valid ONNX model"):
        providers.open_session(tmp_path / "model.onnx", "cpu")


def test_a_silent_fallback_is_an_error_unless_it_is_auto(gpu_wheel):
    with pytest.raises(InputError, match=r"--provider cuda: .*fell back to CPUExecution.*cuDNN 9"):
        providers.open_session("model.onnx", "cuda")
    assert Fallen.asked[0] == (CUDA, {"use_tf32": "0"})
    assert providers.open_session("model.onnx").get_providers()[0] == providers.CPU
    assert Fallen.asked == [(providers.CPU, {})]


def test_openvino_is_float32_with_the_threads_of_the_session(gpu_wheel):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    with pytest.raises(InputError, match=r"--provider openvino: .*fell back to CPUExecution"):
        providers.open_session("model.onnx", "openvino", options)
    name, settings = Fallen.asked[0]
    assert name == OPENVINO
    assert settings == {"device_type": "CPU", "precision": "FP32", "num_of_threads": "3"}


@pytest.mark.parametrize("asked", ["cuda", "tensorrt", "openvino"])
def test_a_provider_that_is_not_there(folder, asked):
    name, _, needs = providers.PROVIDERS[asked]
    if name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    with pytest.raises(InputError, match=f"--provider {asked}: .*{name} needs {needs}"):
        providers.open_session(folder / "model.onnx", asked)
