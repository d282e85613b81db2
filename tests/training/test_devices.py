"""What a training runs on, by the machine."""

import pytest
import tensorflow as tf

from training import devices


@pytest.mark.parametrize(("steps", "expected"), [(195, 15), (390, 15), (391, 1), (64, 16)])
def test_steps_per_execution_divide_the_epoch(monkeypatch, steps, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert devices.steps_per_execution(steps) == expected
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert devices.steps_per_execution(steps) == 1


def test_mixed_float16_without_a_gpu_is_a_warning():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    said = []
    assert devices.choose_precision("mixed_float16", said.append) == "mixed_float16"
    assert "without a GPU" in said[0]
    assert devices.choose_precision("auto", said.append) == "float32"
