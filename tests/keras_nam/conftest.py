"""What the tests of checkpoints share."""

import sys

import pytest

import keras_nam
from tests.support.small_models import randomize


@pytest.fixture
def model():
    model = keras_nam.create_model("r18w8_nam")
    randomize(model)
    return model


@pytest.fixture
def layer():
    layer = keras_nam.NAMChannelAttention()
    layer.build((None, 4, 4, 16))
    return layer


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
