"""Measures what an attention costs at inference: networks of random weights, exported, in turns.

    python benchmarks/inference.py

compares r50_nam with r50: the Keras model, its folded SavedModel, ONNX float32 and int8. Speed does
not depend on the weights' values; float32 files are verified before they are timed.

Exit status: 0 done, 1 an export that is not verified, 2 bad usage or bad input.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import options
from training import cli

LEAST_ROUNDS = 5
MODELS = ("keras", "savedmodel", "onnx", "onnx-int8")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = options.new_parser(__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--archs",
        nargs="+",
        metavar="ARCH",
        default=["r50", "r50_nam"],
        help="each is compared with the first (default: r50 r50_nam)",
    )
    options.add_batch_size(what)
    options.add_how(parser, "timed calls of each", rounds=15, least=LEAST_ROUNDS)
    options.add_output(parser, "inference.json")
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    options.check(args, rounds=LEAST_ROUNDS, threads=1, batch_size=1)
    with cli.needing("train,export"):
        from benchmarks.inference_report import benchmark
    benchmark(args, MODELS)


if __name__ == "__main__":
    cli.run(main)
