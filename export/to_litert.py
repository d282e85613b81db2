"""Exports a run's SavedModel to LiteRT and verifies that its interpreter gives the same scores.

    python export/to_litert.py

takes the newest finished run, and writes `litert/model.tflite`, `litert/labels.txt` and
`litert/verification.json` into it. Exit status: 0 verified, 1 not verified (the file is kept as
`model.unverified.tflite`), 2 bad usage or bad input.
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
    to_onnx.add_options(parser, "litert")
    return parser


def main(argv=None):
    """Parses, exports, verifies and prints."""
    args = parser().parse_args(preprocessing.joined(argv))
    cli.check_name("precision", args.precision, to_onnx.PRECISIONS)
    with cli.needing("train,export"):
        from export.targets import exporter, litert
    exporter.export(litert.TARGET, args)


if __name__ == "__main__":
    cli.run(main)
