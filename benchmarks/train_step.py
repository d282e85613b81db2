"""Measures one training step side by side: ours, what others would write, and the floor of both.

    python benchmarks/train_step.py

A step is forward, backward and the optimizer's update, on random images. In turns, in one process:
ours; the same backbone without attention; the same network with stock Keras normalizations; with
the official block, ported line by line; in PyTorch, where it is installed; and the floor, which is
the network's convolutions and matrix products alone. Those that are the same network begin with
the same weights, and their first losses are compared before a time is taken.

Exit status: 0 done, 1 a measurement that failed, 2 bad usage or bad input.
"""

import shlex
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import options
from training import cli

LEAST_ROUNDS = 5
DEVICES = ("cpu", "gpu")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = options.new_parser(__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--arch",
        default="r50_nam",
        help="a backbone with the channel attention, <backbone>_nam (default: %(default)s)",
    )
    options.add_batch_size(what)
    how = options.add_how(parser, "timed steps of each", rounds=10, least=LEAST_ROUNDS)
    how.add_argument(
        "--device", default="cpu", help=f"{' or '.join(DEVICES)} (default: %(default)s)"
    )
    options.add_output(parser, "train_step.json, train_step.md and train_step.png")
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    options.check(args, rounds=LEAST_ROUNDS, threads=1, batch_size=1)
    cli.check_name("device", args.device, DEVICES)
    with cli.needing("train"):
        from benchmarks.train_step_report import benchmark
    benchmark(args, command=shlex.join(["python", "benchmarks/train_step.py", *argv]))


if __name__ == "__main__":
    cli.run(main)
