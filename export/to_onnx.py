"""Exports a run's SavedModel to ONNX and verifies that ONNX Runtime gives the same scores.

    python export/to_onnx.py

takes the newest finished run, and writes `onnx/model.onnx` and `onnx/verification.json` into it.
Exit status: 0 verified, 1 not verified (the file is kept as `model.unverified.onnx`),
2 bad usage or bad input.
"""

import argparse
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
    add_options(parser, "onnx")
    group = parser.add_argument_group("ONNX")
    group.add_argument("--opset", type=int, default=17, help="(default: %(default)s)")
    group.add_argument(
        "--provider",
        default="auto",
        help=f"ONNX Runtime's execution provider: {', '.join(PROVIDERS)}; a fallback to another is "
        "an error (default: %(default)s, CUDA where it works, else the CPU)",
    )
    return parser


def add_options(parser, folder):
    """Adds the options that all exporters share; `folder` is the default for their files."""
    group = parser.add_argument_group("what is exported", "By default the newest finished run.")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--run", metavar="RUN", help="a finished run's folder")
    where.add_argument(
        "--saved-model",
        metavar="DIR",
        help="a SavedModel; inside a run it is compared with the run's Keras model, elsewhere only "
        "with itself",
    )
    where.add_argument(
        "--keras", metavar="FILE", help="a .keras file of any make; needs --images or --dataset"
    )
    group.add_argument("--data-dir", help="as for training/train.py")
    group.add_argument(
        "--dataset",
        help="for a model that belongs to no run; as for training/train.py (default for a "
        "SavedModel: cifar100)",
    )
    add_keras_options(parser)
    preprocessing.add_options(
        parser.add_argument_group(
            "what a model that belongs to no run takes",
            "The exported file takes RGB of 0-255 and does this itself.",
        )
    )
    made = parser.add_argument_group("what is made")
    made.add_argument(
        "--precision", default="float32", help=f"{', '.join(PRECISIONS)} (default: %(default)s)"
    )
    made.add_argument(
        "--calibration-images",
        type=int,
        metavar="N",
        help="training images that the ranges of int8 and float16 are measured on (default: 512, "
        "or all)",
    )
    made.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="test images for the verification, drawn at random; of --inputs the first (default: "
        "1000; all for int8 and --inputs)",
    )
    made.add_argument(
        "--output",
        metavar="DIR",
        help=f"folder (default: {folder}/ in the run, or beside the SavedModel)",
    )


def add_keras_options(parser):
    """Adds the options of `--keras`."""
    group = parser.add_argument_group("a Keras model that belongs to no run")
    data = group.add_mutually_exclusive_group()
    data.add_argument(
        "--images",
        metavar="FOLDER",
        help="pictures to verify it on, in class folders or not; float16 and int8 are verified on "
        "one half, and their ranges are measured on the other",
    )
    data.add_argument(
        "--inputs",
        metavar="FILE.npz",
        help="arrays to verify it on, one for each input, for other models than image classifiers",
    )
    group.add_argument(
        "--labels", metavar="FILE", help="class names in the model's order, one a line"
    )
    group.add_argument(
        "--scores",
        choices=("logits", "probabilities"),
        help="what the model returns (default: found out by its last activation or the numbers)",
    )
    group.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="height and width in pixels, one or two numbers, for a model of any size (default: "
        "224)",
    )
    group.add_argument(
        "--crop-fraction",
        type=cli.number_up_to(1),
        metavar="F",
        help="share of the resized picture that is kept, its centre (default: the whole picture)",
    )
    group.add_argument(
        "--custom", metavar="FILE.py", help="Python file that defines the model's own layers"
    )
    group.add_argument(
        "--fold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold the normalizations into the convolutions (default: yes)",
    )


def main(argv=None):
    """Parses, exports, verifies and prints."""
    args = parser().parse_args(preprocessing.joined(argv))
    cli.check_name("provider", args.provider, PROVIDERS)
    cli.check_name("precision", args.precision, PRECISIONS)
    with cli.needing("train,export"):
        from export.runtime import providers
        from export.targets import exporter, onnx
    providers.check(args.provider)
    exporter.export(onnx.TARGET, args)


if __name__ == "__main__":
    cli.run(main)
