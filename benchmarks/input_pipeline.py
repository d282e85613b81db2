"""Measures how many augmented images a second the input pipeline gives on the CPU.

    python benchmarks/input_pipeline.py

The streams take turns in one process: the recipe's own, the recipe `fast`'s (crop and flip), one
without augmentation, and one with the nearest layers of stock Keras, which are similar but do not
do the same. All have the same images in the same order, batched, normalized and prefetched in the
same way. Exit status: 0 done, 2 bad usage or bad input.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import options
from training import cli, recipes

LEAST_ROUNDS = 10


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = options.new_parser(__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--recipe",
        default="paddle",
        help=f"{', '.join(recipes.RECIPES)}: whose augmentations (default: %(default)s)",
    )
    options.add_batch_size(what, default=None, by_default="the recipe's")
    options.add_how(parser, "timed turns of each stream", rounds=30, least=LEAST_ROUNDS)
    options.add_output(parser, "input_pipeline.json")
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    recipe = recipes.get(args.recipe, batch_size=args.batch_size)
    options.check(args, rounds=LEAST_ROUNDS, threads=1)
    with cli.needing("train"):
        from benchmarks.input_pipeline_report import benchmark
    benchmark(args, recipe)


if __name__ == "__main__":
    cli.run(main)
