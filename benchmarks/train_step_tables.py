"""The report of the training step for a person: tables in Markdown, a picture."""

import matplotlib
from rich import box
from rich.table import Table
from rich.text import Text

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from export import timing

COLOURS = {"ours": "C0", "plain": "C2", "floor": "0.6"}
OTHERS = "C1"


def title(report):
    """Returns what the numbers were taken on, a line."""
    versions = report["environment"]["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    return (
        f"{report['arch']}, batch of {report['batch_size']}, {report['dtype']}, "
        f"{report['device']}, {threads}, {report['rounds']} rounds; "
        f"{report['environment']['machine']}; {named}"
    )


def show(report, console):
    """Prints a report as tables in Markdown; a number that is not exact has a ~ before it."""

    def say(line):
        console.print(Text(line), soft_wrap=True)

    say(f"Training step: {title(report)}\n")
    say(f"`{report['command']}`\n")
    for name, reason in report["left_out"].items():
        say(f"left out: {name}: {reason}\n")
    for table in (_times(report), _ratios(report)):
        console.print(table)
    say(_floor(report))
    numbers = [row[key] for row in report["results"] for key in ("milliseconds", "ratio")]
    for line in timing.noise_note([*numbers, *report["ratios"].values()], report["noisy_above"]):
        say(line)
    for title_, table in (("Peak memory of training", _memory), ("Operations of ours", _profile)):
        say(f"\n{title_}\n")
        console.print(table(report))


def _table(*columns):
    """Returns an empty table whose first column is of words, the others of numbers."""
    first, *others = columns
    table = Table(box=box.MARKDOWN)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _times(report):
    table = _table("contender", "ms a step", "images/s", "time / ours", "p10", "p90")
    for row in report["results"]:
        time, ratio = row["milliseconds"], row["ratio"]
        table.add_row(
            row["contender"],
            f"{timing.mark(time)}{time['median']:,.1f}",
            f"{timing.mark(time)}{row['images_per_second']:,.1f}",
            f"{timing.mark(ratio)}{ratio['median']:.3f}",
            *(f"{ratio[key]:.3f}" for key in ("p10", "p90")),
        )
    return table


def _ratios(report):
    table = _table("times of one round", "median", "p10", "p90")
    for name, ratio in report["ratios"].items():
        cells = (f"{ratio[key]:.3f}" for key in ("p10", "p90"))
        table.add_row(name, f"{timing.mark(ratio)}{ratio['median']:.3f}", *cells)
    return table


def _floor(report):
    """Returns what the floor does, and how fast, a line."""
    (row,) = (row for row in report["results"] if row["contender"] == "floor")
    flops, time = report["floor_flops"], row["milliseconds"]
    rate = flops / time["median"] / 1e6
    return (
        f"\nfloor: the convolutions and matrix products of the plain network, {flops / 1e9:,.1f} "
        f"GFLOP a step at {timing.mark(time)}{rate:,.0f} GFLOP/s\n"
    )


def _memory(report):
    memory = report["memory"]
    if memory is None:
        return Text("not measured: this system does not tell it")
    table = _table("network", "MB an image", "/ plain")
    table.add_row("ours", f"{memory['ours'] / 1e6:.2f}", f"{memory['ratio']:.3f}")
    table.add_row("plain", f"{memory['plain'] / 1e6:.2f}", "1.000")
    return table


def _profile(report):
    if report["profile"] is None:
        return Text("not measured: TensorFlow's profile is read on the CPU, where it can be")
    table = _table("operation", "ms a step", "share of all operations")
    for row in report["profile"]:
        table.add_row(row["operation"], f"{row['milliseconds']:,.2f}", f"{row['share']:.1%}")
    return table


def draw(report, path):
    """Draws images/s of each; the lines go from the 10th to the 90th percentile."""
    rows = report["results"]
    names = [row["contender"] for row in rows]
    speeds = np.array([row["images_per_second"] for row in rows])
    fast, slow = (
        np.array([1e3 * row["batch"] / row["milliseconds"][key] for row in rows])
        for key in ("p10", "p90")
    )
    figure, axes = plt.subplots(figsize=(7.5, 1.6 + 0.42 * len(rows)), layout="constrained")
    axes.barh(
        names,
        speeds,
        # A median of images/s that was rounded may lie outside of equal percentiles.
        xerr=np.maximum(0, (speeds - slow, fast - speeds)),
        color=[COLOURS.get(name, OTHERS) for name in names],
        ecolor="0.3",
    )
    for name, row, end in zip(names, rows, np.maximum(fast, speeds), strict=True):
        axes.annotate(
            f"{timing.mark(row['milliseconds'])}{row['images_per_second']:,.1f}",
            (end, name),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set(
        xlim=(0, 1.2 * fast.max()), xlabel="images/s; lines: 10th to 90th percentile; ~: noisy"
    )
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.invert_yaxis()
    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    axes.set_title(
        f"training step, {report['arch']}, batch of {report['batch_size']}, {report['dtype']}, "
        f"{report['device']}, {threads}",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
