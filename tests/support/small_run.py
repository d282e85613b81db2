"""A training of seconds on the synthetic set: its command line, and its history."""

from pathlib import Path

from training import train
from training.runs import files

ARGUMENTS = ["--arch", "r18w8_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "64", "--steps-per-epoch", "4", "--epochs", "3", "--strategy", "none"]
TIMES = ("seconds", "images_per_second")


def run(folder, *more):
    """Trains into a folder; returns the history without its timings."""
    train.main([*ARGUMENTS, "--run-dir", str(folder), *more])
    return history(Path(folder))


def history(folder):
    rows = files.read_history(folder / "history.csv")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
