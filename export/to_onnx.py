"""Exports a run's SavedModel to ONNX, and shows that ONNX Runtime gives the trained answers.

    python export/to_onnx.py

takes the newest finished run, and leaves `onnx/model.onnx` and `onnx/verification.json` in it.
Exit status: 0 verified, 1 not verified (the file is kept aside as `model.unverified.onnx`),
2 bad usage or bad input.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from export.runtime import preprocessing
from training import cli

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino")
PRECISIONS = ("float32", "float16", "int8")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    add_source_options(parser)
    what = parser.add_argument_group("what is made")
    what.add_argument("--opset", type=int, default=17, help="of ONNX (default: %(default)s)")
    add_precision_options(what)
    what.add_argument(
        "--output",
        metavar="DIR",
        help="folder (default: onnx/ in the run's, or beside a SavedModel)",
    )
    how = parser.add_argument_group("how it is verified")
    how.add_argument(
        "--provider",
        default="auto",
        help=f"ONNX Runtime's execution provider: {', '.join(PROVIDERS)}; never another than the "
        "one that is named (default: %(default)s, CUDA where it works, else the CPU)",
    )
    add_sample_option(how)
    return parser


def add_source_options(parser):
    """Adds what the exporters share: the run or SavedModel, and its data."""
    group = parser.add_argument_group("what is exported", "By default the newest finished run.")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--run", metavar="RUN", help="a finished run's folder")
    where.add_argument(
        "--saved-model",
        metavar="DIR",
        help="a SavedModel; inside a run it is compared with the run's Keras model, elsewhere only "
        "with itself",
    )
    group.add_argument("--data-dir", help="as for training/train.py")
    group.add_argument(
        "--dataset",
        default="cifar100",
        help="for a SavedModel that belongs to no run (default: %(default)s)",
    )
    preprocessing.add_options(
        parser.add_argument_group(
            "what a SavedModel that belongs to no run takes",
            "The exported file takes RGB of 0-255 and does this itself.",
        )
    )


def add_precision_options(group):
    """Adds the precision, and the images that int8 is calibrated on."""
    group.add_argument(
        "--precision", default="float32", help=f"{', '.join(PRECISIONS)} (default: %(default)s)"
    )
    group.add_argument(
        "--calibration-images",
        type=int,
        metavar="N",
        help="training images that int8's ranges are measured on (default: 512, or all)",
    )


def add_sample_option(group):
    """Adds the number of test images."""
    group.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="test images (default: 1000; all of them for int8)",
    )


def main(argv=None):
    """Parses, exports, verifies and prints."""
    args = parser().parse_args(preprocessing.joined(argv))
    cli.check_name("provider", args.provider, PROVIDERS)
    cli.check_name("precision", args.precision, PRECISIONS)
    with cli.needing("train,export"):
        from export.targets.onnx import export
    export(args)


if __name__ == "__main__":
    cli.run(main)
