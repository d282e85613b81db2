"""What a GPU switches on, run on the CPU: XLA, several steps a call, float16, Keras' own gate.

TensorFlow is made to list a GPU on which nothing is placed. So only the device itself is untested.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_nam import derived_gate
from tests.support.small_run import history, run
from training.fitting import devices, progress
from training.runs import files

ROOT = Path(__file__).parents[3]
MORE = ("--learning-rate", "0.05")
FLOAT32 = (*MORE, "--precision", "float32")


@pytest.fixture
def gpu(lean, monkeypatch):
    """Makes TensorFlow list a GPU with tensor cores, and two steps be one call."""
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


def test_the_settings_of_a_gpu_train_and_resume(tmp_path, gpu):
    """Mixed precision is the default there; a resumed training ends as the whole one."""
    more = (*MORE, "--epochs", "2", "--checkpoint-every", "2")
    folder = tmp_path / "run"
    whole = run(folder, *more)
    assert files.read_json(folder / "config.json")["precision"] == "mixed_float16"
    model = keras.saving.load_model(folder / "last.keras")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert (model.jit_compile, model.steps_per_execution) == (True, 2)
    assert whole[-1]["loss"] < whole[0]["loss"]
    assert np.isfinite([row[key] for row in whole for key in row]).all()

    for name in ("result.json", "last.keras"):  # previous.keras is of step 6
        (folder / name).unlink()
    assert run(folder, *more, "--resume") == whole


@pytest.mark.slow
def test_a_cpu_resumes_in_float32_and_gets_its_own_numbers(
    tmp_path, lean, signal_after, monkeypatch, request
):
    """The GPU's form of the gate trains the first epoch. XLA on the CPU would be slower."""
    whole = run(tmp_path / "whole", *FLOAT32)
    request.getfixturevalue("gpu")

    def unused(*_):
        raise AssertionError("the gate's form for the CPU")

    with monkeypatch.context() as patch:
        patch.setattr(derived_gate, "gate", unused)
        signal_after(6, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", *FLOAT32)
    monkeypatch.undo()
    derived_gate._gpus.cache_clear()
    seen = []
    begin = progress.EpochLines.on_epoch_begin

    def see(self, epoch, logs=None):
        seen.append((self.model.jit_compile, self.model.steps_per_execution))
        begin(self, epoch, logs)

    monkeypatch.setattr(progress.EpochLines, "on_epoch_begin", see)
    rows = run(tmp_path / "run", *FLOAT32, "--resume")
    assert seen == [(False, 1)] * 2
    for ours, theirs in zip(rows, whole, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-3)


@pytest.mark.slow
def test_two_devices_train_with_the_mixed_precision_that_they_have(tmp_path):
    """Two logical CPUs that are listed as GPUs. XLA or several steps a call would be an error."""
    code = f"""
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
listed = tf.config.list_physical_devices
gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{{n}}", "GPU") for n in range(2)]
tf.config.list_physical_devices = lambda kind=None: gpus if kind == "GPU" else listed(kind)
tf.config.experimental.get_device_details = lambda _: {{"compute_capability": (8, 0)}}
from tests.support.networks import small_network
from tests.support import small_run
small_network.replace_network()
small_run.run({str(tmp_path / "run")!r}, "--strategy", "mirrored", *{MORE})
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
    rows = history(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert files.is_finished(tmp_path / "run")
