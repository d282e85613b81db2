"""Execution providers: the one that was asked for, or an error that says what is missing."""

import numpy as np
import onnxruntime
import pytest

from export.runtime import providers
from tests.support import toys
from training.cli import InputError

CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "model.onnx"
    toys.save_onnx(path)
    return path


class Fallen:
    """The GPU wheel on a machine without a GPU: a session, but on the CPU."""

    asked = ()

    def __init__(self, path, options, providers):
        Fallen.asked = providers

    def get_providers(self):
        return [providers.CPU]


@pytest.fixture
def gpu_wheel(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, providers.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)


def test_cpu(toy):
    session = providers.open_session(toy, "cpu")
    assert session.get_providers() == [providers.CPU]


def test_auto_without_a_gpu_wheel(toy):
    assert providers.open_session(toy).get_providers()[0] == providers.CPU


def test_a_silent_fallback_is_an_error(gpu_wheel):
    with pytest.raises(
        InputError, match=r"--provider cuda: ONNX Runtime fell back to CPUExecution.*cuDNN 9"
    ):
        providers.open_session("model.onnx", "cuda")
    assert Fallen.asked[0] == (CUDA, {"use_tf32": "0"})


def test_openvino_is_float32_with_the_threads_of_the_session(monkeypatch, gpu_wheel):
    openvino = providers.PROVIDERS["openvino"][0]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [openvino, providers.CPU])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    with pytest.raises(InputError, match=r"--provider openvino: .*fell back to CPUExecution"):
        providers.open_session("model.onnx", "openvino", options)
    name, settings = Fallen.asked[0]
    assert name == openvino
    assert settings == {"device_type": "CPU", "precision": "FP32", "num_of_threads": "3"}


def test_auto_falls_back_by_intention(gpu_wheel):
    assert providers.open_session("model.onnx").get_providers()[0] == providers.CPU
    assert Fallen.asked == [(providers.CPU, {})]


@pytest.mark.parametrize("asked", ["cuda", "tensorrt", "openvino"])
def test_a_provider_that_is_not_there(toy, asked):
    name, _, needs = providers.PROVIDERS[asked]
    if name in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    with pytest.raises(InputError, match=f"--provider {asked}: .*{name} needs {needs}"):
        providers.open_session(toy, asked)


def test_a_damaged_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.onnx is not a valid ONNX model"):
        providers.open_session(path, "cpu")


def test_nodes_are_counted(toy):
    feeds = {"image": np.zeros((1, 32, 32, 3), np.float32)}
    assert providers.nodes_by_provider(toy, "cpu", feeds) == {providers.CPU: 4}
