"""The weights with which the golden files' networks ran: a rule, so that no large file is kept."""

import json
import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[2] / "golden"


def weights_for(shapes, salt=""):
    """Returns the float32 array of every key.

    Args:
        shapes: Dictionary: state-dict key -> shape. Also a string, the same as JSON, or the array
            of that string, as the golden files hold it.
        salt: `""` for PyTorch's files, `"paddle/"` for Paddle's, whose Linear is [in, out].
    """
    if not isinstance(shapes, dict):
        shapes = json.loads(str(shapes))
    return {key: _draw(key, tuple(shape), salt) for key, shape in shapes.items()}


def _draw(key, shape, salt):
    rng = np.random.default_rng(zlib.crc32((salt + key).encode()))
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.float32)
    if kind in ("running_var", "_variance"):
        values = rng.uniform(0.5, 1.5, shape)
    elif kind in ("running_mean", "_mean", "bias"):
        values = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
        values = rng.normal(1, 0.2, shape)
    else:
        paddle_linear = salt == "paddle/" and len(shape) == 2
        fan_in = shape[0] if paddle_linear else math.prod(shape[1:])
        values = rng.normal(0, math.sqrt(1 / fan_in), shape)
    return values.astype(np.float32)
