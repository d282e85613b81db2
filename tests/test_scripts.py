"""The scripts of a checkout run its own modules, however the package was installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("training", "export", "benchmarks")
NEED_TENSORFLOW = [
    "training/train.py",
    "training/evaluate.py",
    "training/gates.py",
    "training/compare.py --archs r18,r18_nam",
    "export/to_savedmodel.py",
    "export/to_onnx.py",
    "export/to_litert.py",
    "export/to_page.py",
    "export/benchmark.py",
    "benchmarks/train_step.py",
    "benchmarks/inference.py",
    "benchmarks/input_pipeline.py",
]
HEAVY = ("tensorflow", "keras", "jax", "matplotlib", "onnxruntime", "filelock")
COMMANDS = [
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if '__name__ == "__main__"' in (text := path.read_text("utf-8")) and "parser(" in text.lower()
]


def run(folder, script, *arguments):
    """Runs a script where the modules in `folder` hide installed ones."""
    return subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_its_own_checkout_and_nothing_heavy(command, tmp_path):
    """Other packages of these names, which an installed checkout puts on the path, are ignored."""
    for name in (*FOLDERS, *HEAVY):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    ended = run(tmp_path, command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout


@pytest.mark.parametrize("command", NEED_TENSORFLOW)
def test_a_missing_package_is_one_line(command, tmp_path):
    """After `pip install .`, without the extras."""
    for name in HEAVY:
        missing = f"raise ModuleNotFoundError('No module named {name}', name='{name}')"
        (tmp_path / f"{name}.py").write_text(missing)
    ended = run(tmp_path, *command.split())
    assert ended.returncode == 2, ended.stderr[-2000:]
    assert re.match(r"error: \w+ is not installed: pip install -e '.\[train", ended.stderr)
    assert ended.stderr.count("\n") == 1
