"""The precision, the devices and the backend of a training, by the machine and the options."""

import keras
import pytest
import tensorflow as tf

from training import recipes, train
from training.cli import InputError
from training.fitting import devices, multihost
from training.runs import report


@pytest.mark.parametrize(("steps", "expected"), [(195, 15), (390, 15), (391, 1), (64, 16)])
def test_steps_per_execution_divide_the_epoch(monkeypatch, steps, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    alone = {"jit_compile": False, "steps_per_execution": 1}
    assert devices.execution(steps) == {"jit_compile": True, "steps_per_execution": expected}
    monkeypatch.setattr(tf.distribute, "has_strategy", lambda: True)
    assert devices.execution(steps) == alone
    monkeypatch.undo()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert devices.execution(steps) == alone


def test_mixed_float16_without_a_gpu_is_a_warning():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    said = []
    assert devices.choose_precision("mixed_float16", said.append) == "mixed_float16"
    assert "without a GPU" in said[0]
    assert devices.choose_precision("auto", said.append) == "float32"


def test_mirrored_over_one_device():
    placement = devices.place("mirrored", lambda line: None)
    assert placement.mirrored
    assert placement.devices == 1


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="--batch-size 50: expected a multiple of 4"):
        devices.check_batch(50, devices.Placement(devices=4))
    devices.check_batch(52, devices.Placement(devices=4))


def test_linear_scaling_keeps_each_device_its_batch():
    recipe = recipes.get("paddle")
    assert devices.scaled(recipe, 8, "none") is recipe
    scaled = devices.scaled(recipe, 8, "linear")
    assert scaled.batch_size == 8 * recipe.batch_size
    assert scaled.learning_rate == pytest.approx(8 * recipe.learning_rate)
    assert scaled.warmup_steps * scaled.batch_size == recipe.warmup_steps * recipe.batch_size


@pytest.mark.parametrize(
    ("backend", "command", "expected"),
    [
        ("torch", lambda: train.main([]), "'torch'; there are tensorflow, jax"),
        ("tensorflow", multihost.choose_backend, "KERAS_BACKEND is tensorflow.*=jax"),
        ("jax", lambda: devices.place("mirrored", print), "mirrored is TensorFlow's"),
        ("jax", report.check_backend, "is jax: expected tensorflow"),
    ],
)
def test_another_backend_is_refused(monkeypatch, backend, command, expected):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
    with pytest.raises(InputError, match=expected):
        command()
