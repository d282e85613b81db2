"""What setup.cfg declares, where an installation alone would show that it is wrong."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_nam

ROOT = Path(__file__).parents[1]


@pytest.fixture
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.mark.parametrize("extra", ["export", "gpu"])
def test_quantization_has_sympy(setup, extra):
    """ONNX Runtime 1.25 and 1.26 import it for quantization, and do not declare it."""
    requirements = setup["options.extras_require"][extra]
    assert re.search(r"^sympy\b", requirements, re.MULTILINE)


def test_the_version_is_read_without_keras(setup, tmp_path):
    """A build has neither Keras nor a backend."""
    pytest.importorskip("setuptools")
    (tmp_path / "keras.py").write_text("raise SystemExit('keras was imported')")
    code = (
        "from setuptools.config.setupcfg import read_configuration as read\n"
        "print(read('setup.cfg')['metadata']['version'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.stdout.strip() == keras_nam.__version__, ended.stderr
