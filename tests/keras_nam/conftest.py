"""Fixtures of the checkpoint tests."""

import sys

import numpy as np
import pytest

import keras_nam
from tests.support.networks.small_models import randomize


@pytest.fixture(scope="session")
def network():
    return keras_nam.create_model("r18w8_nam")


@pytest.fixture
def model(network):
    """A network with random weights; all tests share the object."""
    randomize(network)
    return network


@pytest.fixture(scope="session")
def state(network):
    """A PyTorch state dict of random numbers for `model`."""
    rng = np.random.default_rng(9)
    return {
        key: array if array.dtype == np.int64 else rng.normal(size=array.shape).astype("float32")
        for key, array in keras_nam.to_torch_state_dict(network).items()
    }


@pytest.fixture
def layer():
    layer = keras_nam.NAMChannelAttention()
    layer.build((None, 4, 4, 16))
    return layer


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
