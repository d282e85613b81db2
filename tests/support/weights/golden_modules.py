"""The reference NAM modules' numbers (tests/golden/README.md), in Keras' layout, case by case."""

from pathlib import Path

import keras
import numpy as np

import keras_nam

GOLDEN = Path(__file__).parents[2] / "golden"
# The gradient stops at the weights in the official code, and flows through them in the Paddle port.
GATE_GRADIENT = {"torch": False, "paddle": True}
LAYERS = {"channel": keras_nam.NAMChannelAttention, "spatial": keras_nam.NAMSpatialAttention}


def cases():
    """Returns {"torch/channel/0": arrays by name, …}; images are [N, H, W, C]."""
    found = {}
    for framework in GATE_GRADIENT:
        with np.load(GOLDEN / f"nam_modules_{framework}.npz") as file:
            for key in file:
                case, name = key.rsplit("/", 1)
                array = file[key]
                if array.ndim == 4:
                    array = array.transpose(0, 2, 3, 1)
                found.setdefault(f"{framework}/{case}", {})[name] = array
    return found


def layer_of(case, arrays):
    """Returns the built layer of a case, with its weights."""
    framework, kind, _ = case.split("/")
    layer = LAYERS[kind](
        gate_gradient=GATE_GRADIENT[framework], data_format="channels_last", dtype="float32"
    )
    layer.build(arrays["x"].shape)
    layer.set_weights([arrays[k] for k in ("gamma", "beta", "running_mean", "running_var")])
    return layer


def biased_variance(case, arrays):
    """Returns the new moving variance in Keras' sense: PyTorch moves it by n/(n-1) of the batch's.

    The momentum is 0.9 in Keras' sense, so `new = 0.9 * old + 0.1 * batch`.
    """
    framework, kind, _ = case.split("/")
    if framework == "paddle":
        return arrays["new_running_var"]
    batch, height, width, channels = arrays["x"].shape
    n = batch * (height * width if kind == "channel" else channels)
    old = 0.9 * arrays["running_var"]
    return old + (arrays["new_running_var"] - old) * (n - 1) / n


def relative_error(actual, expected):
    """Returns the largest difference over the largest expected magnitude."""
    actual, expected = (
        keras.ops.convert_to_numpy(value).astype("float64") for value in (actual, expected)
    )
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
