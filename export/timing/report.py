"""The benchmark of a run's models: measures them and writes a table, a JSON file and a plot."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from export.runtime.devices import prepare_tensorflow
from export.timing import rounds
from export.timing.contenders import check_alike, open_contenders
from export.verification.source import open_source
from training import console
from training.cli import InputError
from training.runs import files, style

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


@style.drawing
def draw(report, path):
    """Plots milliseconds for one image and images/s for more, with lines from p10 to p90."""
    sizes = list(dict.fromkeys(row["batch"] for row in report["results"]))
    models = list(report["files"])
    figure, panels = style.subplots(
        1,
        len(sizes),
        (max(9, 2.2 + 3.4 * len(sizes)), 2.2 + 0.42 * len(models)),
        sharey=True,
        squeeze=False,
    )
    together = [axes for axes, size in zip(panels.flat, sizes, strict=True) if size > 1]
    for axes in together[1:]:
        axes.sharex(together[0])
    for axes, size in zip(panels.flat, sizes, strict=True):
        rows = [row for row in report["results"] if row["batch"] == size]
        times = np.array(
            [[row["milliseconds"][key] for row in rows] for key in ("p10", "median", "p90")]
        )
        name, unit, form, values = (
            ("one image", "milliseconds: shorter is better", ".2f", times)
            if size == 1
            else (f"batch of {size}", "images/s: longer is better", ",.0f", 1e3 * size / times)
        )
        low, middle, high = np.sort(values, axis=0)
        bars = axes.barh(
            models, middle, xerr=(middle - low, high - middle), color=style.SKY, ecolor="0.3"
        )
        marks = [rounds.mark(row["milliseconds"]) for row in rows]
        labels = [f"{mark}{value:{form}}" for mark, value in zip(marks, middle, strict=True)]
        axes.bar_label(bars, labels, padding=4, fontsize=9)
        axes.set(title=name, xlabel=unit)
        axes.margins(x=0.3)
        axes.grid(visible=False, axis="y")
        axes.xaxis.get_major_locator().set_params(nbins=4)
        axes.xaxis.set_major_formatter("{x:,g}")
    panels[0, 0].invert_yaxis()
    noise = f"~: noisy, these percentiles are more than {rounds.NOISY:.0%} of the median apart"
    figure.supxlabel(f"bar: median; line: 10th to 90th percentile\n{noise}", fontsize="medium")
    figure.suptitle(f"{title(report)}\n{report['environment']['machine']}", fontsize="medium")
    style.save(figure, path)
