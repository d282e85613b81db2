"""The tests of layers, networks and folding on the other backends of Keras, in own processes.

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
FILES = ["nam_golden", "nam", "peers", "models", "fold", "fold_graphs", "fold_state"]
# A minute of processor time at most. JAX compiles every operation for every shape.
SKIPPED = {
    "jax": "every_arch fit_lowers stem parameters mixed_precision names_are bam_stands of_its_own "
    "folding_twice no_nan channels_first_is fewer_channels kernels_of recurrent layer_by_layer "
    "weightings inner_normalizations strided",
    "torch": "every_arch fit_lowers",
}


@pytest.mark.parametrize("backend", SKIPPED)
@tensorflow_only
def test_other_backend(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    files = [FOLDER / f"test_{name}.py" for name in FILES]
    options = ["-q", "-m", "not slow", "-k", f"not ({' or '.join(SKIPPED[backend].split())})"]
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": flags},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stdout[-10000:] + process.stderr[-2000:]
