"""Shows what the gates of a trained NAM network do: their values, and accuracy without them.

    python training/gates.py

takes the newest finished run and writes gates.json, gates.png and gate_maps.png into its folder
gates/. It also removes channels between convolutions: with the smallest |gamma|, with the
smallest kernels, and random ones. Of a spatial gate, read "position" for "channel".

    python training/gates.py RUN --pictures a.jpg b.jpg

only draws what each gate does to these pictures, into gates/pictures.png.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "run", nargs="?", help="folder of a NAM network's run (default: the newest finished run)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--images", type=int, metavar="N", help="test images, the first N (default: all)"
    )
    what.add_argument(
        "--pictures",
        nargs="+",
        metavar="PICTURE",
        help="pictures to show instead of the test images: files or folders",
    )
    parser.add_argument("--data-dir", help="as for train.py")
    parser.add_argument(
        "--out", metavar="DIR", help="output folder (default: gates/ in the run folder)"
    )
    return parser


def main(argv=None):
    """Parses, measures and prints."""
    args = parser().parse_args(argv)
    with cli.needing("train"):
        from training.gating import report
    (report.show if args.pictures else report.report)(args)


if __name__ == "__main__":
    cli.run(main)
