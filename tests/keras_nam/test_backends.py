"""Chosen tests of layers, networks and folding on the other backends of Keras, one process each.

All of tests/keras_nam runs on each: `KERAS_BACKEND=jax python -m pytest tests/keras_nam`.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backends import tensorflow_only

FOLDER = Path(__file__).parent
# JAX compiles every operation for every shape, so each promise has one test here.
CHOSEN = {
    "nam_golden": "torch/spatial/0 or paddle/channel/0",
    "nam": "formulas or float32_under and float16 and not bfloat16 or zero and True or detached",
    "peers": "formula",
    "any_rank": "positions and shape1 or signals and NAMChannel",
    "gate_values": "subclassed or formulas",
    "fold": "last_bit and (convolution or options0 or options2)",
    "fold_graphs": "branches",
    "fold_state": "not_shared",
    "slim": "stand and silu",
}


@pytest.mark.parametrize("backend", ["jax", "torch"])
@tensorflow_only
def test_other_backend(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    files = [next(FOLDER.rglob(f"test_{name}.py")) for name in CHOSEN]
    chosen = [f"(test_{name}.py and ({words}))" for name, words in CHOSEN.items()]
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", " or ".join(chosen), *files],
        env={**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": flags},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stdout[-10000:] + process.stderr[-2000:]
