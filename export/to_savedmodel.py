"""Writes a run's SavedModel again, or that of a Keras file of any make, which is then verified.

    python export/to_savedmodel.py
    python export/to_savedmodel.py --keras model.keras --images FOLDER

writes `saved_model/<next version>/` into the newest finished run, or into `model/`. The folder
appears by a rename, so that a server which watches `saved_model/` never loads a half-written
version. Exit status: 0 written, 1 not verified (nothing is written), 2 bad usage or bad input.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from export import to_onnx
from export.runtime import preprocessing
from training import cli


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--run",
        metavar="RUN",
        help="run folder, finished or with a best.keras (default: the newest finished)",
    )
    where.add_argument("--keras", metavar="FILE", help="a .keras file; needs --images or --dataset")
    parser.add_argument(
        "--version",
        type=int,
        metavar="N",
        help="number of the version, replaced if it exists (default: the next one)",
    )
    parser.add_argument(
        "--data-dir",
        help="as for training/train.py; of a run, if its config.json has no class names",
    )
    parser.add_argument("--dataset", help="for a Keras file; as for training/train.py")
    to_onnx.add_keras_options(parser)
    preprocessing.add_options(parser.add_argument_group("what the Keras model takes"))
    return parser


def main(argv=None):
    """Parses, writes, and prints the path."""
    args = parser().parse_args(preprocessing.joined(argv))
    if args.version is not None and args.version < 1:
        raise cli.InputError(f"--version {args.version}: expected a whole number from 1")
    with cli.needing("train,export"):
        from export.targets import savedmodel
    write = savedmodel.of_keras if args.keras else savedmodel.of_run
    print(f"SavedModel: {write(args)}")


if __name__ == "__main__":
    cli.run(main)
