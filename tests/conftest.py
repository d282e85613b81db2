"""What all tests share: the option --gpu, the markers `gpu` and `data`, and saved figures."""

import os
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--gpu",
        action="store_true",
        help="run the tests on an NVIDIA GPU in full float32; skip them if there is none",
    )


def pytest_configure(config):
    if config.getoption("--gpu"):
        # Commands run in processes of their own, beside this one, on the same GPU.
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"


def pytest_runtest_setup(item):
    folder = os.environ.get("TFDS_DATA_DIR")
    if item.get_closest_marker("data") and not (folder and (Path(folder) / "cifar100").is_dir()):
        pytest.skip("TFDS_DATA_DIR holds no cifar100")


@pytest.fixture
def figures(monkeypatch):
    """A list that receives the figures which are saved."""
    from training.runs import style

    save, saved = style.save, []
    monkeypatch.setattr(
        style, "save", lambda figure, path: (saved.append(figure), save(figure, path))
    )
    return saved


def pytest_collection_modifyitems(config, items):
    on_gpu = [item for item in items if config.getoption("--gpu") or item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        # TensorFloat-32 keeps 10 bits of the mantissa; the golden numbers need float32's 23.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        return
    for item in on_gpu:
        item.add_marker(pytest.mark.skip(reason="TensorFlow finds no NVIDIA GPU"))
