"""The network that a training builds: its copy of another dtype."""

import keras
import numpy as np

import keras_nam
from training import network


def test_float32_copy_of_a_mixed_model_computes_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras_nam.create_model("r18w8_nam_full")
    finally:
        keras.config.set_dtype_policy("float32")
    copy = network.with_dtype(model, "float32")
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
