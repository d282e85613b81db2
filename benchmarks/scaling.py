"""Measures how a training scales from one process to two, each on its own CPU core.

    python benchmarks/scaling.py

Runs `training/launch.py` on the synthetic data set, in turns:

  one     one process, on each of the two cores in turn
  apart   two independent processes at the same time: what sharing the memory costs
  weak    two processes that train together, --batch-size images each
  strong  two processes that train together, --batch-size images in all

The speed is `images_per_second` in the run's `history.csv`, the median of all epochs except the
first, which compiles. The efficiency is the speed divided by twice the speed of one process.

Exit status: 0 done, 1 a training failed, 2 bad usage or bad input.
"""

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import report
from export.timing import rounds
from training import cli
from training.cli import FailedError, InputError
from training.runs import files

LAUNCH = Path(__file__).parents[1] / "training" / "launch.py"
PACKAGES = ("jax", "keras", "tensorflow", "numpy")
LEAST_ROUNDS = 3
EPOCHS = 3
NAMES = {
    "one": "one process",
    "apart": "two independent processes at the same time",
    "weak": "two together, the batch size for each (weak)",
    "strong": "two together, the batch size in all (strong)",
}


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = report.Parser(__doc__, "scaling")
    parser.add_argument("--arch", default="r18w16_nam", help="default: %(default)s")
    parser.add_number("batch-size", 128, "images per batch, an even number", 2)
    parser.add_number("rounds", LEAST_ROUNDS, "turns of each", LEAST_ROUNDS)
    parser.add_number("steps", 5, f"steps of each of the {EPOCHS} epochs")
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    if args.batch_size % 2:
        raise InputError(
            f"--batch-size {args.batch_size}: expected an even number, two processes share it"
        )
    cores = two_cores()
    with cli.needing("train,multihost"):
        import jax  # noqa: F401 - for the trainings

        from training import console
    turns = []
    progress = console.progress("measuring", args.rounds, background=False)
    with tempfile.TemporaryDirectory() as folder, progress as advance:
        for number in range(args.rounds):
            turns.append(turn(args, cores, Path(folder) / str(number)))
            advance()
    measured = {**report.new_report(args, PACKAGES), "turns": turns}
    measured["results"] = results(turns)
    report.write(args.output, "scaling", measured, page(measured))


def two_cores():
    """Returns a core of each half of the usable ones; InputError if there are fewer than two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise InputError(f"{len(cores)} cores that processes can be pinned to: expected 2 or more")
    return [cores[0], cores[len(cores) // 2]]


def turn(args, cores, folder):
    """Returns one round's speeds: dictionary, contender to images per second."""

    def train(name, cores, batch_size):
        return Training(args, folder / name, cores, batch_size)

    alone = [train(f"one-{core}", [core], args.batch_size).speed() for core in cores]
    apart = [train(f"apart-{core}", [core], args.batch_size) for core in cores]
    for training in apart:
        training.process.wait()
    return {
        "one": sum(alone) / len(alone),
        "apart": sum(training.speed() for training in apart),
        "weak": train("weak", cores, 2 * args.batch_size).speed(),
        "strong": train("strong", cores, args.batch_size).speed(),
    }


class Training:
    """A running training: a process for each core, `batch_size` images in all processes."""

    def __init__(self, args, folder, cores, batch_size):
        folder.mkdir(parents=True)
        self.log, self.run = folder / "output.txt", folder / "run"
        options = {"arch": args.arch, "dataset": "synthetic", "batch-size": batch_size}
        options |= {"epochs": EPOCHS, "steps-per-epoch": args.steps, "run-dir": self.run}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, LAUNCH, "--processes", str(len(cores)), "--pin", "--"]
                + [f"--{name}={value}" for name, value in options.items()],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(os.sched_setaffinity, 0, cores),
            )

    def speed(self):
        """Waits for its end; returns the median images per second of the epochs after the first."""
        status = self.process.wait()
        if status:
            errors = re.findall(r"error: (.*)", self.log.read_text())
            reason = errors[0] if errors else f"the training ended with status {status}"
            raise (InputError if status == 2 else FailedError)(reason)
        epochs = files.read_history(self.run / "history.csv")
        return float(np.median([epoch["images_per_second"] for epoch in epochs[1:]]))


def results(turns):
    """Returns the statistics of each contender's speed, and of its efficiency in the same round."""
    speeds = {name: np.array([turn[name] for turn in turns]) for name in NAMES}
    return [
        {
            "contender": name,
            "images_per_second": rounds.percentiles(speed),
            "efficiency": rounds.percentiles(speed / speeds["one"] / (1 + (name != "one"))),
        }
        for name, speed in speeds.items()
    ]


def page(measured):
    """Returns the report's paragraphs and its table."""
    forms = {"images_per_second": ",.1f", "efficiency": ".0%"}
    rows = [
        [NAMES[row["contender"]], *(report.cell(row[key], form) for key, form in forms.items())]
        for row in measured["results"]
    ]
    columns = ["training", "images/s (p10–p90)", "efficiency (p10–p90)"]
    return [
        f"# Scaling: {measured['arch']}, batch size {measured['batch_size']}",
        report.caption(measured),
        report.table(columns, rows),
        *rounds.noise_note(row[key] for row in measured["results"] for key in forms),
    ]


if __name__ == "__main__":
    cli.run(main)
