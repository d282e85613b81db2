"""Measures how a training scales from one process to two, and computes how it would go on.

    python benchmarks/scaling.py

Processes as those of `training/launch.py --processes 2 --pin`, each on one core, train in turns:
one alone on either core; two apart at the same time, which shows what cores lose that share their
memory; two together with the same batch for each (weak scaling), as they are and with the thread of
gloo, the library of their all-reduces, out of the way of the others; two together with the same
batch in all (strong scaling). A step is timed within the training, after what compiles. From it and
from assumed networks and devices follows the time of a step on 8, 64 and 512 devices.

Exit status: 0 done, 1 a measurement that failed, 2 bad usage or bad input.
"""

import math
import os
import shlex
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import options
from training import cli
from training.cli import InputError

LEAST_ROUNDS = 3
LEAST_STEPS = 2
MOST_IMAGES = 2000  # a batch of two processes is one of the synthetic set


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = options.new_parser(__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--arch", default="r18w16_nam", help="default: %(default)s")
    options.add_batch_size(what, default=128, by_default="%(default)s, of each process")
    how = parser.add_argument_group("how it is measured")
    for name, default, text in (
        ("rounds", 10, f"turns of each, at least {LEAST_ROUNDS}"),
        ("steps", 3, f"timed steps of a turn, after one that is not; at least {LEAST_STEPS}"),
    ):
        how.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (%(default)s)"
        )
    how.add_argument(
        "--measured",
        metavar="FILE",
        help="take the measurements of an earlier scaling.json, and compute the rest anew",
    )
    assumed = parser.add_argument_group("what is assumed of larger machines")
    for name, default, text in (
        ("gpu-tflops", 60.0, "what a GPU reaches in training, 10¹² operations a second"),
        ("critical-batch", 1000.0, "images above which a larger batch saves few steps"),
    ):
        assumed.add_argument(
            f"--{name}", type=float, default=default, metavar="X", help=f"{text} (%(default)s)"
        )
    output = options.add_output(parser, "scaling.json and scaling.md")
    output.add_argument(
        "--plot", metavar="FILE", default="docs/scaling.png", help="the picture (%(default)s)"
    )
    return parser


def check(args):
    """Raises an InputError for options that are out of their range."""
    options.check(args, rounds=LEAST_ROUNDS, steps=LEAST_STEPS, batch_size=2)
    if args.batch_size % 2 or 2 * args.batch_size > MOST_IMAGES:
        raise InputError(
            f"--batch-size {args.batch_size}: expected an even number up to {MOST_IMAGES // 2}, "
            f"since two processes share it, and twice it is drawn from {MOST_IMAGES} images"
        )
    for name in ("gpu_tflops", "critical_batch"):
        value = getattr(args, name)
        if not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected a number above 0")


def main(argv=None):
    """Parses, measures, prints and writes."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    check(args)
    # This process counts the networks' operations on TensorFlow's graph; it trains nothing.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with cli.needing("train,multihost"):
        import jax  # noqa: F401 - the trainings', which say less well that it is missing

        from benchmarks.scaling_report import benchmark
    benchmark(args, command=shlex.join(["python", "benchmarks/scaling.py", *argv]))


if __name__ == "__main__":
    cli.run(main)
