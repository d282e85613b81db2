"""The scripts of a checkout run its own modules, however the package was installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("training", "export", "benchmarks")
COMMANDS = [
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in (text := path.read_text("utf-8")) and "parser(" in text.lower()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_script_imports_its_own_checkout(command, tmp_path):
    """Other packages of these names, which an installed checkout puts on the path, are ignored."""
    for folder in FOLDERS:
        (tmp_path / f"{folder}.py").write_text("raise SystemExit('another checkout')")
    ended = subprocess.run(
        [sys.executable, ROOT / command, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert "usage" in ended.stdout
