"""Measures what an attention costs at inference: networks of random weights, exported, in turns.

    python benchmarks/inference.py

compares r50_nam with r50: the Keras model, its folded SavedModel, ONNX float32 and int8. Speed does
not depend on the weights' values; float32 files are verified before they are timed.

Exit status: 0 done, 1 an export that is not verified, 2 bad usage or bad input.
"""

import argparse
import os

from training import cli

LEAST_ROUNDS = 5
MODELS = ("keras", "savedmodel", "onnx", "onnx-int8")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--archs",
        nargs="+",
        metavar="ARCH",
        default=["r50", "r50_nam"],
        help="each is compared with the first (default: r50 r50_nam)",
    )
    what.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images (default: %(default)s)"
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--rounds",
        type=int,
        default=15,
        metavar="N",
        help=f"timed calls of each, at least {LEAST_ROUNDS} (default: %(default)s)",
    )
    how.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="of every model (default: %(default)s, the cores of this machine)",
    )
    parser.add_argument_group("output").add_argument(
        "--output",
        metavar="DIR",
        default="benchmarks/results",
        help="folder of inference.json (default: %(default)s)",
    )
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    for option, least in (("rounds", LEAST_ROUNDS), ("threads", 1), ("batch_size", 1)):
        if getattr(args, option) < least:
            name = option.replace("_", "-")
            raise cli.InputError(f"--{name} {getattr(args, option)}: expected {least} or more")
    with cli.needing("train,export"):
        from benchmarks.inference_report import benchmark
    benchmark(args, MODELS)


if __name__ == "__main__":
    cli.run(main)
