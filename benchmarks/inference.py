"""Measures what an attention costs at inference: exported networks after one step, in turns.

    python benchmarks/inference.py

Compares r50_nam with r50: the Keras model, its folded and its unfolded SavedModel, and ONNX float32
and int8 in ONNX Runtime and in OpenVINO (optional: pip install openvino). Speed does not depend on
the values of the weights. The float32 files are verified before they are timed.

Exit status: 0 done, 1 an export failed its verification, 2 bad usage or bad input.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import report
from export.timing import rounds
from training import cli
from training.cli import InputError

LEAST_ROUNDS = 5
MODELS = ("keras", "savedmodel", "onnx", "onnx-int8", "openvino", "openvino-int8")
UNFOLDED = "savedmodel-unfolded"
CALIBRATION_IMAGES = 32
PACKAGES = ("tensorflow", "keras", "numpy", "onnxruntime", "openvino")
# Name of a gain -> the models whose times of one round are divided.
GAINS = {
    "folding": (UNFOLDED, "savedmodel"),
    "int8": ("onnx", "onnx-int8"),
    "OpenVINO": ("onnx", "openvino"),
    "OpenVINO, int8": ("onnx-int8", "openvino-int8"),
}


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = report.Parser(__doc__, "inference")
    parser.add_argument(
        "--archs",
        nargs="+",
        metavar="ARCH",
        default=["r50", "r50_nam"],
        help="each is compared with the first (default: r50 r50_nam)",
    )
    parser.add_number("batch-size", 64, "images per batch")
    parser.add_number("rounds", 15, "timed calls of each", LEAST_ROUNDS)
    parser.add_number("threads", os.cpu_count(), "threads of each contender")
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    with cli.needing("train,export"):
        measured = measure(args)
        report.write(args.output, "inference", measured, page(measured))


def measure(args):
    """Returns the report, as JSON holds it."""
    from export.runtime.devices import prepare_tensorflow
    from export.timing.contenders import open_contenders
    from keras_nam.models import parse_arch

    for arch in args.archs:
        try:
            parse_arch(arch)
        except ValueError as error:
            raise InputError(f"--archs {arch}: {error}") from None
    prepare_tensorflow("CPU", args.threads)
    calls, left_out = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in args.archs:
            folded, unfolded = exported(Path(folder), arch)
            contenders, missing = open_contenders(folded, MODELS, "cpu", args.threads)
            left_out |= missing
            calls |= {(arch, contender.name): contender.predict for contender in contenders}
            ((contender,), _) = open_contenders(unfolded, ["savedmodel"], "cpu", args.threads)
            calls[arch, UNFOLDED] = contender.predict
        images = np.random.default_rng(0).uniform(0, 255, (args.batch_size, 32, 32, 3))
        seconds = rounds.measure(calls, {args.batch_size: images.astype(np.float32)}, args.rounds)
    return {
        **report.new_report(args, PACKAGES),
        "left_out": left_out,
        "results": results(seconds, args.archs[0]),
        "gains": gains(seconds),
    }


def exported(folder, arch):
    """Trains one step; returns the `Source` of the network with its ONNX files, and unfolded.

    Only the float32 file is verified: the accuracy of int8 depends on trained weights.
    """
    import onnx

    from export import to_onnx, to_savedmodel
    from export.targets import exporter, quantization
    from export.verification.source import open_source
    from training import train

    run = folder / arch
    one_step = ["--recipe", "fast", "--dataset", "synthetic", "--epochs", "1"]
    one_step += ["--steps-per-epoch", "1", "--strategy", "none", "--quiet"]
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(["--arch", arch, *one_step, "--run-dir", str(run)])
        to_onnx.main(["--run", str(run), "--provider", "cpu", "--samples", "64"])
        to_savedmodel.main(["--run", str(run), "--no-fold"])
    folded, unfolded = (open_source(saved_model=run / "saved_model" / each) for each in "12")
    float32 = onnx.load(run / "onnx" / "model.onnx")
    images = exporter.calibration_images(folded, CALIBRATION_IMAGES)
    onnx.save(quantization.to_int8(float32, images), run / "onnx" / "model.int8.onnx")
    return folded, unfolded


def results(seconds, first):
    """Returns a row for each model and arch; `ratio` is to the first arch in the same round."""
    rows = []
    for model in dict.fromkeys(model for (_, model), _ in seconds):
        own = {(arch, n): times for ((arch, name), n), times in seconds.items() if name == model}
        for row in rounds.summarize(own, baseline=first):
            rows.append({"model": model, "arch": row.pop("contender"), **row})
    return rows


def gains(seconds):
    """Returns for each of `GAINS` and each arch the statistics of the ratio of times."""
    times = {key: its_own for (key, _), its_own in seconds.items()}
    return [
        {"gain": name, "arch": arch, **rounds.percentiles(times[arch, old] / times[arch, new])}
        for name, (old, new) in GAINS.items()
        for arch in dict.fromkeys(arch for arch, _ in times)
        if {(arch, old), (arch, new)} <= times.keys()
    ]


def page(measured):
    """Returns the report's paragraphs and tables."""
    rows = []
    for row in measured["results"]:
        times = row["milliseconds"]
        mark = rounds.mark(times)
        speed = [f"{mark}{times['median']:,.1f}", f"{mark}{row['images_per_second']:,.0f}"]
        rows.append([row["model"], row["arch"], *speed, report.cell(row["ratio"], ".3f")])
    gain_rows = [[row["gain"], row["arch"], report.cell(row, ".2f")] for row in measured["gains"]]
    numbers = [row[key] for row in measured["results"] for key in ("milliseconds", "ratio")]
    columns = ["model", "arch", "ms", "images/s", f"time / {measured['archs'][0]} (p10–p90)"]
    return [
        f"# Inference: batch size {measured['batch_size']}, {measured['threads']} threads, CPU",
        report.caption(measured),
        *(f"Left out: {name}: {reason}" for name, reason in measured["left_out"].items()),
        report.table(columns, rows, words=2),
        report.table(["gain", "arch", "times as fast (p10–p90)"], gain_rows, words=2),
        *rounds.noise_note([*numbers, *measured["gains"]]),
    ]


if __name__ == "__main__":
    cli.run(main)
