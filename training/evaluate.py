"""Evaluates a run, or a .keras file, on the test set: accuracy by class, confusions, mistakes."""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli, recipes
from training.data import sources


def parser():
    """Returns the parser; it needs no heavy import."""
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "run", nargs="?", help="run folder or .keras file (default: the newest finished run)"
    )
    parser.add_argument(
        "--split", default="test", help="test or validation, the run's own (default: %(default)s)"
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="average each image's logits with its mirror image's: twice the work, and not "
        "comparable with a figure without it",
    )
    parser.add_argument("--data-dir", help="as for train.py")
    parser.add_argument(
        "--recipe",
        help=f"{', '.join(recipes.RECIPES)}: whose mean and std are used for a .keras file without "
        "a run (default: paddle)",
    )
    parser.add_argument(
        "--dataset",
        help=f"{', '.join(sources.DATASETS)} or a folder: for a .keras file without a run "
        "(default: cifar100)",
    )
    return parser


def main(argv=None):
    """Parses, evaluates and prints."""
    args = parser().parse_args(argv)

    with cli.needing("train"):
        from training.runs.report import report

    report(args.run, args.split, args.flip, args.data_dir, args.recipe, args.dataset)


if __name__ == "__main__":
    cli.run(main)
