"""Writes a run's SavedModel again: after an interruption, or with other options.

    python export/to_savedmodel.py

writes `saved_model/<next version>/` into the newest finished run. The folder appears by a rename,
so that a server which watches `saved_model/` never loads a half-written version.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="run folder, finished or with a best.keras (default: the newest finished)",
    )
    parser.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="number of the version, replaced if it exists (default: the next one)",
    )
    parser.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold the normalizations into the convolutions (default: yes)",
    )
    parser.add_argument(
        "--data-dir",
        help="as for training/train.py, for a run whose config.json has no class names",
    )
    return parser


def main(argv=None):
    """Parses, writes, and prints the path."""
    args = parser().parse_args(argv)
    if args.version is not None and args.version < 1:
        raise cli.InputError(f"--version {args.version}: expected a whole number from 1")

    with cli.needing("train"):
        from export.verification.source import open_run
        from training.runs import files, saved_model

    run = open_run(args.run or files.newest_finished(), finished=False)
    base = run.folder / "saved_model"
    versions = [int(path.name) for path in base.glob("*") if path.name.isdecimal()]
    written = saved_model.save(
        run.model,
        base,
        run.config.get("class_names") or run.dataset(args.data_dir).class_names,
        run.mean,
        run.std,
        run.job.crop_fraction,
        version=args.version or max(versions, default=0) + 1,
        fold=args.fold,
    )
    print(f"SavedModel: {written}")


if __name__ == "__main__":
    cli.run(main)
