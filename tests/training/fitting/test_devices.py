"""What a training runs on, by the machine and by what was asked for."""

import pytest
import tensorflow as tf

from training import recipes
from training.cli import InputError
from training.fitting import devices


@pytest.mark.parametrize(("steps", "expected"), [(195, 15), (390, 15), (391, 1), (64, 16)])
def test_steps_per_execution_divide_the_epoch(monkeypatch, steps, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    on_gpu = {"jit_compile": True, "steps_per_execution": expected}
    alone = {"jit_compile": False, "steps_per_execution": 1}
    assert devices.execution(steps) == on_gpu
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


def test_one_device_mirrored_works_and_says_so():
    said = []
    placement = devices.place("mirrored", said.append)
    assert placement.mirrored
    assert placement.devices == 1
    assert said == ["mirrored over 1 device(s)"]


@pytest.mark.parametrize(
    ("batch_size", "count", "would"), [(50, 4, "48 or 52 would"), (3, 8, "devices; 8 would")]
)
def test_a_batch_that_does_not_divide_is_refused(batch_size, count, would):
    with pytest.raises(InputError, match=would):
        devices.check_batch(batch_size, devices.Placement(devices=count))
    devices.check_batch(8 * count, devices.Placement(devices=count))


def test_linear_scaling_keeps_each_device_its_batch():
    recipe = recipes.get("paddle")
    assert devices.scaled(recipe, 8, "none") is recipe
    scaled = devices.scaled(recipe, 8, "linear")
    assert scaled.batch_size == 8 * recipe.batch_size
    assert scaled.learning_rate == pytest.approx(8 * recipe.learning_rate)
    assert scaled.warmup_steps * scaled.batch_size == recipe.warmup_steps * recipe.batch_size
    with pytest.raises(InputError, match="there are none, linear"):
        devices.scaled(recipe, 8, "sqrt")
