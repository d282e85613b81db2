"""What a GPU switches on, run on the CPU: XLA, several steps a call, float16, Keras' own gate.

TensorFlow is made to list a GPU on which nothing is placed. So only the device itself is untried.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from keras_nam import derived_gate
from training import train
from training.fitting import callbacks, devices, network
from training.runs import files

ROOT = Path(__file__).parents[3]
ARGUMENTS = ["--arch", "r18w8_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "64", "--steps-per-epoch", "4", "--epochs", "3"]
ARGUMENTS += ["--learning-rate", "0.05"]
TIMES = ("seconds", "images_per_second")


def small_network(job, classes):
    """What XLA compiles in seconds."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=4, use_bias=False)(image)
    x = keras_nam.BatchNormalization()(x)
    x = keras_nam.NAMChannelAttention()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.Dense(classes, dtype="float32")(x))


@pytest.fixture
def gpu(monkeypatch):
    """Has TensorFlow list a GPU with tensor cores, and two steps be one call."""
    list_devices = tf.config.list_physical_devices
    listed = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind=None: listed if kind == "GPU" else list_devices(kind),
    )
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda _: {"compute_capability": (8, 0)}
    )
    monkeypatch.setattr(devices, "MOST_STEPS", 2)
    derived_gate._gpus.cache_clear()
    yield
    derived_gate._gpus.cache_clear()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(network, "initial_model", small_network)
    keras.utils.set_random_seed(0)


def run(folder, *more):
    train.main([*ARGUMENTS, "--run-dir", str(folder), *more])
    rows = files.read_history(folder / "history.csv")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_the_settings_of_a_gpu_train_and_resume(tmp_path, gpu, monkeypatch):
    """Mixed precision is the default there; an interrupted training ends as the whole one."""
    whole = run(tmp_path / "whole")
    assert files.read_json(tmp_path / "whole" / "config.json")["precision"] == "mixed_float16"
    model = keras.saving.load_model(tmp_path / "whole" / "last.keras")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.jit_compile
    assert model.steps_per_execution == 2
    assert whole[-1]["loss"] < whole[0]["loss"]
    assert np.isfinite([row[key] for row in whole for key in row]).all()
    assert files.is_finished(tmp_path / "whole")

    def interrupt(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TimeEstimate, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", "--checkpoint-every", "2")
    assert run(tmp_path / "run", "--checkpoint-every", "2", "--resume") == whole


def test_another_machine_resumes_with_its_own_settings(tmp_path, gpu, monkeypatch):
    """The checkpoint of a GPU, on a CPU: XLA and several steps a call would be slower there."""
    begin = callbacks.TimeEstimate.on_epoch_begin

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt
        begin(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TimeEstimate, "on_epoch_begin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", "--precision", "float32")
    seen = []

    def see(self, epoch, logs=None):
        seen.append((self.model.jit_compile, self.model.steps_per_execution))

    monkeypatch.undo()
    monkeypatch.setattr(callbacks.TimeEstimate, "on_epoch_begin", see)
    rows = run(tmp_path / "run", "--precision", "float32", "--resume")
    assert seen == [(False, 1)] * 2
    assert len(rows) == 3


def test_in_float32_they_give_the_numbers_of_the_cpu(tmp_path, gpu, monkeypatch):
    def unused(*_):
        raise AssertionError("the gate's form for the CPU")

    monkeypatch.setattr(derived_gate, "gate", unused)
    with_gpu = run(tmp_path / "gpu", "--precision", "float32")
    monkeypatch.undo()
    derived_gate._gpus.cache_clear()
    monkeypatch.setattr(network, "initial_model", small_network)
    without = run(tmp_path / "cpu")
    for ours, theirs in zip(with_gpu, without, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-3)


def test_several_gpus_train_with_the_mixed_precision_that_they_have(tmp_path):
    """Two logical CPUs for them. XLA or several steps a call would be an error."""
    code = f"""
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
listed = tf.config.list_physical_devices
gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{{n}}", "GPU") for n in range(2)]
tf.config.list_physical_devices = lambda kind=None: gpus if kind == "GPU" else listed(kind)
tf.config.experimental.get_device_details = lambda _: {{"compute_capability": (8, 0)}}
from tests.training.fitting.test_gpu_settings import ARGUMENTS, network, small_network, train
network.initial_model = small_network
train.main([*ARGUMENTS, "--strategy", "mirrored", "--run-dir", {str(tmp_path / "run")!r}])
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "mirrored over 2 device(s)" in ended.stdout
    assert "mixed_float16" in ended.stdout
    rows = files.read_history(tmp_path / "run" / "history.csv")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert files.is_finished(tmp_path / "run")
