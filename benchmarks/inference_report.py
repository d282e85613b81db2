"""The benchmark of inference from random networks to its report: a table, a JSON file."""

import contextlib
import io
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from export import quantize, random_run, release, timing, to_onnx
from export.benchmark_report import PACKAGES, say
from export.contenders import open_contenders
from export.devices import prepare_tensorflow
from export.source import open_source
from keras_nam.models import parse_arch
from training import runs
from training.cli import InputError

CALIBRATION_IMAGES = 32
UNFOLDED = "savedmodel-unfolded"
# What is gained -> the models whose times of one round are divided.
GAINS = {"folding": (UNFOLDED, "savedmodel"), "int8": ("onnx", "onnx-int8")}


def benchmark(args, models):
    """Measures, prints and writes, as the command line of `inference` says; returns the report."""
    for arch in args.archs:
        try:
            parse_arch(arch)
        except ValueError as error:
            raise InputError(f"--archs {arch}: {error}") from None
    prepare_tensorflow("CPU", args.threads)
    console = Console(highlight=False)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for arch in track(args.archs, "making and verifying", console=console, transient=True):
            source = _exported(Path(folder) / arch, arch)
            for contender in open_contenders(source, models, "cpu", args.threads)[0]:
                calls[arch, contender.name] = contender.predict
            unfolded = open_source(
                random_run.make(Path(folder) / f"{arch}-{UNFOLDED}", arch, fold=False)
            )
            contenders, _ = open_contenders(unfolded, ("savedmodel",), "cpu", args.threads)
            calls[arch, UNFOLDED] = contenders[0].predict
        images = np.random.default_rng(0).uniform(0, 255, (args.batch_size, 32, 32, 3))
        seconds = timing.measure(calls, {args.batch_size: images.astype(np.float32)}, args.rounds)
    report = {
        "archs": args.archs,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "rounds": args.rounds,
        "noisy_above": timing.NOISY,
        "results": [
            row for name in (*models, UNFOLDED) for row in _rows(seconds, args.archs, name)
        ],
        "gains": _gains(seconds, args.archs),
        "environment": runs.environment(PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs.write_json(output / "inference.json", report)
    show(report, console)
    say(console, f"written: {output / 'inference.json'}")
    return report


def _exported(folder, arch):
    """Returns the `Source` of a random network, with its ONNX files.

    The float32 one is verified. What int8 costs in accuracy is a question for trained weights.
    """
    random_run.make(folder, arch)
    with contextlib.redirect_stdout(io.StringIO()):
        to_onnx.main(["--run", str(folder), "--provider", "cpu", "--samples", "64"])
    source = open_source(folder)
    float32 = onnx.load(folder / "onnx" / "model.onnx")
    int8 = quantize.to_int8(float32, release.calibration_images(source, CALIBRATION_IMAGES))
    onnx.save(int8, folder / "onnx" / "model.int8.onnx")
    return source


def _rows(seconds, archs, name):
    """Returns a kind of model's numbers for each arch; `ratio` is its time by the first arch's."""
    its_own = {(arch, size): s for (((arch, kind), size), s) in seconds.items() if kind == name}
    size = next(iter(its_own))[1]
    rows = timing.summarize(its_own, baseline=archs[0])
    for row in rows:
        ratios = its_own[row["model"], size] / its_own[archs[0], size]
        row |= {"arch": row.pop("model"), "model": name, "ratio": timing.percentiles(ratios)}
        del row["speedup"]
    return rows


def _gains(seconds, archs):
    """Returns for each of `GAINS` and each arch the time without by that with it, of one round."""
    times = {key: its_own for (key, _), its_own in seconds.items()}
    return [
        {"gain": name, "arch": arch, **timing.percentiles(times[arch, old] / times[arch, new])}
        for name, (old, new) in GAINS.items()
        for arch in archs
    ]


def show(report, console):
    """Prints a report as a table; a number that is not exact has a ~ before it."""
    title = f"batch of {report['batch_size']}, {report['threads']} threads, cpu"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("arch")
    for column in ("ms", "images/s", f"time / {report['archs'][0]}", "p10", "p90"):
        table.add_column(column, justify="right")
    for row in report["results"]:
        latency, ratio = row["milliseconds"], row["ratio"]
        table.add_row(
            row["model"],
            row["arch"],
            f"{timing.mark(latency)}{latency['median']:.1f}",
            f"{timing.mark(latency)}{row['images_per_second']:,.0f}",
            f"{timing.mark(ratio)}{ratio['median']:.3f}",
            *(f"{ratio[key]:.3f}" for key in ("p10", "p90")),
        )
    console.print(table)
    for row in report["gains"]:
        say(
            console,
            f"{row['gain']}, {row['arch']}: {timing.mark(row)}{row['median']:.2f} x "
            f"({row['p10']:.2f}–{row['p90']:.2f})",
        )
    numbers = [row[key] for row in report["results"] for key in ("milliseconds", "ratio")]
    for line in timing.noise_note(numbers, report["noisy_above"]):
        say(console, line)
