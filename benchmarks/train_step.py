"""Measures one training step side by side: ours, what others would write, and the floor of both.

    python benchmarks/train_step.py

A step is forward, backward and the optimizer's update, on random images. The contenders take turns
in one process: ours, the same backbone without attention, the same network on stock Keras
normalizations, with the official block ported line by line, in PyTorch, in PyTorch compiled by
torch.compile, and the floor: the network's convolutions and matrix products alone. PyTorch is
optional. Contenders that are the same network start with the same weights, and their first losses
are compared before anything is timed.

Exit status: 0 done, 1 a measurement failed, 2 bad usage or bad input.
"""

import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if not __package__:  # run as a script: the checkout's own modules come first
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import report
from export.timing import rounds
from training import cli
from training.cli import FailedError

LEAST_ROUNDS = 5
DEVICES = ("cpu", "gpu")
PACKAGES = ("tensorflow", "keras", "numpy", "torch")
PROCESS = Path("/proc/self/status")


def parser():
    """Returns the parser; it needs no heavy import, so that --help is immediate."""
    parser = report.Parser(__doc__, "train_step")
    parser.add_argument("--arch", default="r50_nam", help="<backbone>_nam (default: %(default)s)")
    parser.add_number("batch-size", 64, "images per batch")
    parser.add_number("rounds", 10, "timed steps of each", LEAST_ROUNDS)
    parser.add_number("threads", os.cpu_count(), "threads of each contender")
    parser.add_argument(
        "--device", default="cpu", help=f"{' or '.join(DEVICES)} (default: %(default)s)"
    )
    return parser


def main(argv=None):
    """Parses, measures, prints and writes."""
    args = parser().parse_args(argv)
    cli.check_name("device", args.device, DEVICES)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # which the contenders are written for
    with cli.needing("train"):
        measured = measure(args)
        report.write(args.output, "train_step", measured, page(measured))


def measure(args):
    """Returns the report, as JSON holds it."""
    from benchmarks import train_step_contenders as contenders
    from export.runtime.devices import prepare_tensorflow
    from keras_nam import create_model

    contenders.check_arch(args.arch)
    device, plain = args.device.upper(), contenders.plain_arch(args.arch)
    prepare_tensorflow(device, args.threads)
    memory = peak_memory([args.arch, plain], args.batch_size, device, args.threads)
    found, left_out = contenders.open_contenders(
        contenders.new_task(args.arch, args.batch_size, device, args.threads)
    )
    contenders.check_alike(found)
    seconds = rounds.measure(
        {contender.name: lambda batch, its=contender: its.step() for contender in found},
        {args.batch_size: None},
        args.rounds,
        warm_up=1,  # each has made its first step
    )
    return {
        **report.new_report(args, PACKAGES),
        "device": device,
        "dtype": found[0].settings["dtype"],
        "left_out": left_out,
        "results": results(seconds, {its.name: its.first_seconds for its in found}),
        "ratios": ratios(seconds),
        "floor_flops": args.batch_size * contenders.floor_flops(create_model(plain)),
        "memory": memory,
    }


def results(seconds, first_seconds):
    """Returns a row for each contender: its time and the ratio to ours in the same round."""
    rows = rounds.summarize(seconds, baseline="ours")
    return [{**row, "first_seconds": round(first_seconds[row["contender"]], 2)} for row in rows]


def ratios(seconds):
    """Returns NAM's cost and the shares of the floor: statistics over the rounds."""
    times = {name: its_own for (name, _), its_own in seconds.items()}
    pairs = (("ours", "plain"), ("floor", "ours"), ("floor", "plain"))
    return {f"{a} / {b}": rounds.percentiles(times[a] / times[b]) for a, b in pairs}


def peak_memory(archs, batch_size, device, threads):
    """Returns arch -> bytes per image at the peak of training; None if the system has no /proc.

    Each network trains in its own process. FailedError if one fails, such as for lack of memory.
    """
    if device == "CPU" and not PROCESS.exists():
        return None
    peaks = {}
    for arch in archs:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            try:
                peak = process.submit(peak_bytes, arch, batch_size, device, threads).result()
            except Exception as error:  # from TensorFlow, or a killed process
                raise FailedError(
                    f"the memory of {arch} could not be measured: {error}. Try a smaller "
                    "--batch-size."
                ) from None
        peaks[arch] = round(peak / batch_size)
    return peaks


def peak_bytes(arch, batch_size, device, threads):
    """Returns by how much three steps raise this process's memory, on a GPU TensorFlow's."""
    import tensorflow as tf

    from benchmarks import train_step_contenders as contenders
    from export.runtime.devices import prepare_tensorflow
    from keras_nam import create_model

    def used(when):
        if device == "GPU":
            return tf.config.experimental.get_memory_info("GPU:0")[when]
        field = {"current": "VmRSS", "peak": "VmHWM"}[when]
        return 1024 * int(re.search(rf"{field}:\s*(\d+)", PROCESS.read_text())[1])

    prepare_tensorflow(device, threads)
    model = create_model(arch, contenders.CLASSES)
    # The memory of a compilation does not count.
    contenders.keras_step(model, contenders.new_task(arch, 2, device, threads))()
    step = contenders.keras_step(model, contenders.new_task(arch, batch_size, device, threads))
    if device == "GPU":
        tf.config.experimental.reset_memory_stats("GPU:0")
    before = used("current")
    for _ in range(3):
        step()
    return used("peak") - before


def page(measured):
    """Returns the report's paragraphs and tables."""
    times, pairs = measured["results"], measured["ratios"]
    rows = []
    for row in times:
        speed = f"{rounds.mark(row['milliseconds'])}{row['images_per_second']:,.1f}"
        cells = [report.cell(row["milliseconds"], ",.1f"), speed, report.cell(row["ratio"], ".3f")]
        rows.append([row["contender"], *cells, f"{row['first_seconds']:,.1f}"])
    ratio_rows = [[name, report.cell(ratio, ".3f")] for name, ratio in pairs.items()]
    numbers = [row[key] for row in times for key in ("milliseconds", "ratio")]
    (floor,) = (row for row in times if row["contender"] == "floor")
    flops = measured["floor_flops"] / 1e9
    speed = 1e3 * flops / floor["milliseconds"]["median"]
    peaks = [[arch, f"{peak / 1e6:.2f}"] for arch, peak in (measured["memory"] or {}).items()]
    columns = ["contender", "ms (p10–p90)", "images/s", "time / ours (p10–p90)", "first step, s"]
    return [
        f"# Training step: {measured['arch']}, batch size {measured['batch_size']}, "
        f"{measured['dtype']}, {measured['device']}, {measured['threads']} threads",
        report.caption(measured),
        *(f"Left out: {name}: {reason}" for name, reason in measured["left_out"].items()),
        report.table(columns, rows),
        "The first step includes tracing and compilation.",
        report.table(["times of one round", "median (p10–p90)"], ratio_rows),
        *rounds.noise_note([*numbers, *pairs.values()]),
        f"Floor: {flops:,.1f} GFLOP per step, {speed:,.0f} GFLOP/s.",
        report.table(["peak memory of training", "MB per image"], peaks),
    ]


if __name__ == "__main__":
    cli.run(main)
