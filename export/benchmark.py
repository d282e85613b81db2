"""Measures the latency and throughput of a run's models: Keras, SavedModel, ONNX and LiteRT.

    python export/benchmark.py

Takes the newest finished run and writes `benchmark/benchmark.json` and `benchmark.png` into it. The
models take turns in one process, with the same images and the same number of threads. Each is
compared with the trained Keras model. The ONNX files run in ONNX Runtime, and in OpenVINO if it is
installed (pip install openvino). Exit status: 0 done, 2 bad usage or bad input.
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
    "openvino",
    "openvino-int8",
    "litert",
    "litert-float16",
    "litert-int8",
)
CPU_ONLY = ("openvino", "litert")
# ONNX Runtime's provider -> the device of all contenders.
DEVICES = {"cpu": "CPU", "cuda": "GPU", "tensorrt": "GPU", "openvino": "CPU"}
LEAST_ROUNDS = 10


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = cli.Parser(__doc__)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--run", metavar="RUN", help="run folder (default: the newest finished)")
    what.add_argument(
        "--models",
        metavar="NAMES",
        help=f"comma-separated, of {', '.join(MODELS)}; {KERAS} is the baseline and always included"
        " (default: all that the run has)",
    )
    what.add_argument("--data-dir", help="folder of the test images, as for training/train.py")
    how = parser.add_argument_group("how it is measured")
    how.add_argument(
        "--batches",
        metavar="SIZES",
        default="1,8,64",
        help="images per call, comma-separated (default: %(default)s)",
    )
    how.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=100,
        help=f"timed calls of each model and batch size, at least {LEAST_ROUNDS}"
        " (default: %(default)s)",
    )
    how.add_argument(
        "--threads",
        type=int,
        metavar="N",
        default=os.cpu_count(),
        help="threads of each model (default: %(default)s, the cores of this machine)",
    )
    how.add_argument(
        "--provider",
        default="cpu",
        help=f"ONNX Runtime's execution provider: {', '.join(DEVICES)}; TensorFlow uses the same "
        "device (default: %(default)s)",
    )
    parser.add_argument_group("output").add_argument(
        "--output", metavar="DIR", help="folder (default: benchmark/ in the run folder)"
    )
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    cli.check_name("provider", args.provider, DEVICES)
    device = DEVICES[args.provider]
    args.models = _models(args.models, device)
    args.batches = _sizes(args.batches)
    for option, least in (("rounds", LEAST_ROUNDS), ("threads", 1)):
        if getattr(args, option) < least:
            raise cli.InputError(f"--{option} {getattr(args, option)}: expected {least} or more")
    with cli.needing("train,export"):
        from export.timing.report import benchmark

        benchmark(args, device)


def _models(text, device):
    """Returns the requested names, the Keras model first."""
    fitting = [name for name in MODELS if device == "CPU" or not name.startswith(CPU_ONLY)]
    if text is None:
        return tuple(fitting)
    names = text.split(",")
    for name in names:
        cli.check_name("model", name, MODELS)
        if name not in fitting:
            raise cli.InputError(
                f"--models {name} runs on the CPU, but --provider puts the others on the {device}. "
                "Leave one of the two options out."
            )
    return tuple(dict.fromkeys((KERAS, *names)))


def _sizes(text):
    """Returns the batch sizes, without duplicates."""
    sizes = text.split(",")
    for size in sizes:
        if not size.isdecimal() or int(size) < 1:
            raise cli.InputError(
                f"--batches {text}: received {size!r}, expected integers above 0, such as 1,8,64"
            )
    return tuple(dict.fromkeys(map(int, sizes)))


if __name__ == "__main__":
    cli.run(main)
