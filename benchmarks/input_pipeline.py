"""Measures how many augmented images a second the input pipeline gives on the CPU.

    python benchmarks/input_pipeline.py

The streams take turns in one process: the recipe's own, the recipe `fast`'s (crop and flip), one
without augmentation, and one with the nearest layers of stock Keras, which are similar but do not
do the same. All have the same images in the same order, batched, normalized and prefetched in the
same way. Exit status: 0 done, 2 bad usage or bad input.
"""

import argparse
import os

from training import cli, recipes

LEAST_ROUNDS = 10


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--recipe",
        default="paddle",
        help=f"{', '.join(recipes.RECIPES)}: whose augmentations (default: %(default)s)",
    )
    what.add_argument(
        "--batch-size", type=int, metavar="N", help="images a batch (default: the recipe's)"
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=30,
        help=f"timed turns of each stream, at least {LEAST_ROUNDS} (default: %(default)s)",
    )
    how.add_argument(
        "--threads",
        type=int,
        metavar="N",
        default=os.cpu_count(),
        help="of TensorFlow's pools (default: %(default)s, the cores of this machine)",
    )
    parser.add_argument_group("output").add_argument(
        "--output",
        metavar="DIR",
        default="benchmarks/results",
        help="folder of input_pipeline.json (default: %(default)s)",
    )
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    recipe = recipes.get(args.recipe, batch_size=args.batch_size)
    for option, least in (("rounds", LEAST_ROUNDS), ("threads", 1)):
        if getattr(args, option) < least:
            raise cli.InputError(f"--{option} {getattr(args, option)}: expected {least} or more.")
    with cli.needing("train"):
        from benchmarks.input_pipeline_report import benchmark
    benchmark(args, recipe)


if __name__ == "__main__":
    cli.run(main)
