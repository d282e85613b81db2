"""The benchmark of a run's models: measures them and writes a table, a JSON file and a plot."""

from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from export.runtime.devices import prepare_tensorflow
from export.timing import rounds
from export.timing.contenders import check_alike, open_contenders
from export.verification.source import open_source
from training import console
from training.cli import InputError
from training.runs import files

PACKAGES = ("tensorflow", "keras", "numpy", "onnxruntime", "onnxruntime-gpu",
            "onnxruntime-openvino", "openvino", "ai-edge-litert")  # fmt: skip


def benchmark(args, device):
    """Measures the models as the parsed options say; prints, writes and returns the report."""
    prepare_tensorflow(device, args.threads)
    source = open_source(args.run, None, args.data_dir)
    images = source.dataset.test.images
    if max(args.batches) > len(images):
        raise InputError(
            f"--batches {max(args.batches)}: expected up to {len(images)} (the test images)"
        )
    contenders, left_out = open_contenders(source, args.models, args.provider, args.threads)
    for name, reason in left_out.items():
        console.say(f"left out: {name}: {reason}")
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
    show(report)
    console.say(f"written: {folder}/benchmark.json, benchmark.png")
    return report


def title(report):
    """Returns a line that names the run and the settings."""
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    return f"{Path(report['run']).name}: {report['provider']}, {threads}, {report['rounds']} rounds"


def show(report):
    """Prints a report as a table. A noisy number is preceded by "~"."""
    rows = []
    for row in report["results"]:
        latency, speedup = row["milliseconds"], row["speedup"]
        rows.append(
            (
                row["contender"],
                str(row["batch"]),
                f"{rounds.mark(latency)}{latency['median']:.2f}",
                *(f"{latency[key]:.2f}" for key in ("p10", "p90", "p99")),
                f"{rounds.mark(latency)}{row['images_per_second']:,.0f}",
                f"{rounds.mark(speedup)}{speedup['median']:.2f}",
            )
        )
    header = ("model", "batch", "ms", "p10", "p90", "p99", "images/s", "× keras")
    console.table(header, rows, title=title(report))
    numbers = [row[key] for row in report["results"] for key in ("milliseconds", "speedup")]
    for line in rounds.noise_note(numbers):
        console.say(line)


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
        kinds = [name.partition("-")[0] for name in models]
        colours = [f"C{list(dict.fromkeys(kinds)).index(kind)}" for kind in kinds]
        errors = speeds - slow, fast - speeds
        bars = axes.barh(models, speeds, xerr=errors, color=colours, ecolor="0.3")
        marks = [rounds.mark(row["milliseconds"]) for row in rows]
        labels = [f"{mark}{speed:,.0f}" for mark, speed in zip(marks, speeds, strict=True)]
        axes.bar_label(bars, labels, padding=4, fontsize=8)
        axes.set(title=f"batch of {size}", xlim=(0, 1.35 * fast.max()))
        axes.xaxis.get_major_locator().set_params(nbins=4)
        axes.grid(alpha=0.3, axis="x")
        axes.set_axisbelow(True)
    panels[0, 0].invert_yaxis()
    figure.supxlabel("images/s; lines: 10th to 90th percentile; ~: noisy", fontsize="medium")
    figure.suptitle(title(report))
    figure.savefig(path, dpi=110)
    plt.close(figure)
