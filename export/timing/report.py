"""The benchmark of a run's models: measures them and writes a table, a JSON file and a plot."""

from datetime import UTC, datetime
from pathlib import Path

import matplotlib
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from export.runtime.devices import prepare_tensorflow
from export.timing import rounds
from export.timing.contenders import check_alike, open_contenders
from export.verification.source import open_source
from training.cli import InputError
from training.runs import files

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "openvino",
    "ai-edge-litert",
)
COLOURS = {"keras": "C3", "savedmodel": "C1", "onnx": "C0", "openvino": "C4", "litert": "C2"}


def benchmark(args, device):
    """Measures the models, prints and writes the report, and returns it.

    Args:
        args: Parsed options of `benchmark`.
        device: `"CPU"` or `"GPU"`.
    """
    prepare_tensorflow(device, args.threads)
    source = open_source(args.run, None, args.data_dir)
    images = source.dataset.test.images
    if max(args.batches) > len(images):
        raise InputError(
            f"--batches {max(args.batches)}: expected up to {len(images)} (the test images)"
        )
    contenders, left_out = open_contenders(source, args.models, args.provider, args.threads)
    console = Console(highlight=False)
    for name, reason in left_out.items():
        say(console, f"left out: {name}: {reason}")
    check_alike(contenders, images)
    folder = Path(args.output) if args.output else source.run.folder / "benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    batches = {size: images[:size].astype(np.float32) for size in args.batches}
    calls = {contender.name: contender.predict for contender in contenders}
    seconds = rounds.measure(calls, batches, args.rounds)
    report = {
        "run": str(source.run.folder),
        "arch": source.run.config["arch"],
        "files": {contender.name: str(contender.path) for contender in contenders},
        "left_out": left_out,
        "provider": args.provider,
        "device": device,
        "threads": args.threads,
        "rounds": args.rounds,
        "warm_up": rounds.WARM_UP,
        "noisy_above": rounds.NOISY,
        "data": f"the first test images of {source.dataset.source}",
        "results": rounds.summarize(seconds, baseline=contenders[0].name),
        "environment": files.environment(PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    files.write_atomically(folder / "benchmark.png", lambda temporary: draw(report, temporary))
    files.write_json(folder / "benchmark.json", report)
    show(report, console)
    say(console, f"written: {folder}/benchmark.json, benchmark.png")
    return report


def say(console, line):
    """Prints a line without wrapping, so that a command in it can be copied."""
    console.print(Text(line), soft_wrap=True)


def title(report):
    """Returns a line that names the run and the settings."""
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    return f"{Path(report['run']).name}: {report['provider']}, {threads}, {report['rounds']} rounds"


def show(report, console):
    """Prints a report as a table. A noisy number is preceded by "~"."""
    table = Table(
        title=Text(title(report)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("model", no_wrap=True)
    for column in ("batch", "ms", "p10", "p90", "p99", "images/s", "× keras"):
        table.add_column(column, justify="right", no_wrap=True)
    batch = None
    for row in report["results"]:
        if batch not in (None, row["batch"]):
            table.add_section()
        batch = row["batch"]
        latency, speedup = row["milliseconds"], row["speedup"]
        table.add_row(
            row["contender"],
            str(batch),
            f"{rounds.mark(latency)}{latency['median']:.2f}",
            *(f"{latency[key]:.2f}" for key in ("p10", "p90", "p99")),
            f"{rounds.mark(latency)}{row['images_per_second']:,.0f}",
            f"{rounds.mark(speedup)}{speedup['median']:.2f}",
        )
    console.print(table)
    numbers = [row[key] for row in report["results"] for key in ("milliseconds", "speedup")]
    for line in rounds.noise_note(numbers):
        say(console, line)


def draw(report, path):
    """Plots images/s, one panel per batch size, with error bars from p10 to p90."""
    sizes = list(dict.fromkeys(row["batch"] for row in report["results"]))
    models = list(report["files"])
    figure, panels = plt.subplots(
        1,
        len(sizes),
        figsize=(2.2 + 3.4 * len(sizes), 1.6 + 0.42 * len(models)),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, size in zip(panels.flat, sizes, strict=True):
        rows = [row for row in report["results"] if row["batch"] == size]
        speeds = np.array([row["images_per_second"] for row in rows])
        fast, slow = (
            np.array([1e3 * size / row["milliseconds"][key] for row in rows])
            for key in ("p10", "p90")
        )
        axes.barh(
            models,
            speeds,
            xerr=(speeds - slow, fast - speeds),
            color=[COLOURS[name.partition("-")[0]] for name in models],
            ecolor="0.3",
        )
        for name, row, end in zip(models, rows, fast, strict=True):
            axes.annotate(
                f"{rounds.mark(row['milliseconds'])}{row['images_per_second']:,.0f}",
                (end, name),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set(title=f"batch of {size}", xlim=(0, 1.35 * fast.max()))
        axes.xaxis.get_major_locator().set_params(nbins=4)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3, axis="x")
        axes.set_axisbelow(True)
    panels[0, 0].invert_yaxis()
    figure.supxlabel("images/s; lines: 10th to 90th percentile; ~: noisy", fontsize="medium")
    figure.suptitle(title(report))
    figure.savefig(path, dpi=110)
    plt.close(figure)
