"""Measures how fast a run's models answer: the trained one, its SavedModel, ONNX and LiteRT files.

    python export/benchmark.py

takes the newest finished run, and leaves `benchmark/benchmark.json` and `benchmark.png` in it. The
models take turns in one process, on the same images and with the same number of threads; each is
compared with the trained Keras model. Exit status: 0 done, 2 bad usage or bad input.
"""

import os
import sys
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from training import cli

KERAS = "keras"
MODELS = (
    KERAS,
    "savedmodel",
    "onnx",
    "onnx-float16",
    "onnx-int8",
    "litert",
    "litert-float16",
    "litert-int8",
)
# Provider -> where it runs, and TensorFlow beside it.
DEVICES = {"cpu": "CPU", "cuda": "GPU", "tensorrt": "GPU"}
LEAST_ROUNDS = 10


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--run", metavar="RUN", help="run folder (default: the newest finished)")
    what.add_argument(
        "--models",
        metavar="NAMES",
        help=f"of {', '.join(MODELS)}, with commas between; {KERAS} is always there, the others are"
        " compared with it (default: all that the run has)",
    )
    what.add_argument("--data-dir", help="as for training/train.py; it has the test images")
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--batches",
        metavar="SIZES",
        default="1,8,64",
        help="images a call, with commas between (default: %(default)s)",
    )
    how.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=100,
        help=f"timed calls of each model with each batch, at least {LEAST_ROUNDS}"
        " (default: %(default)s)",
    )
    how.add_argument(
        "--threads",
        type=int,
        metavar="N",
        default=os.cpu_count(),
        help="of every model (default: %(default)s, the cores of this machine)",
    )
    how.add_argument(
        "--provider",
        default="cpu",
        help=f"ONNX Runtime's execution provider: {', '.join(DEVICES)}; TensorFlow runs on the same"
        " device (default: %(default)s)",
    )
    parser.add_argument_group("output").add_argument(
        "--output", metavar="DIR", help="folder (default: benchmark/ in the run's)"
    )
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    cli.check_name("provider", args.provider, DEVICES)
    args.models = _models(args.models, DEVICES[args.provider])
    args.batches = _sizes(args.batches)
    for option, least in (("rounds", LEAST_ROUNDS), ("threads", 1)):
        if getattr(args, option) < least:
            raise cli.InputError(f"--{option} {getattr(args, option)}: expected {least} or more")
    with cli.needing("train,export"):
        from export.benchmark_report import benchmark

        benchmark(args, DEVICES[args.provider])


def _models(text, device):
    """Returns the names that are asked for, the Keras model first."""
    if text is None:
        return tuple(name for name in MODELS if device == "CPU" or not _is_litert(name))
    names = text.split(",")
    for name in names:
        cli.check_name("model", name, MODELS)
        if device != "CPU" and _is_litert(name):
            raise cli.InputError(
                f"--models {name} runs on the CPU, and --provider has the others on the {device}: "
                "leave one of both out"
            )
    return tuple(dict.fromkeys((KERAS, *names)))


def _is_litert(name):
    return name.startswith("litert")


def _sizes(text):
    """Returns the batches' sizes, each once, in their order."""
    sizes = text.split(",")
    for size in sizes:
        if not size.isdecimal() or int(size) < 1:
            raise cli.InputError(
                f"--batches {text}: {size!r} is no whole number from 1; expected such as 1,8,64"
            )
    return tuple(dict.fromkeys(map(int, sizes)))


if __name__ == "__main__":
    cli.run(main)
