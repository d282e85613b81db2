"""The picture of a comparison: every run, and the paired differences with their intervals."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

RUNS_ABOVE, MEAN_BELOW = (-0.3, -0.05), 0.2  # a variant's row, in parts of its height


def draw(report, path):
    """Draws every run's top-1, and the paired differences with their mean and 95% interval.

    Args:
        report: Dictionary, what `compare.json` holds.
        path: Where the PNG is written.
    """
    variants = report["variants"]
    names = [row["name"] for row in variants]
    seeds = sorted({row["seed"] for row in report["runs"]})
    colours = dict(zip(seeds, plt.colormaps["tab10"](np.arange(len(seeds)) % 10), strict=True))
    heights = dict(zip(seeds, np.linspace(*RUNS_ABOVE, len(seeds)), strict=True))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 1.8 + 0.6 * len(names)), layout="constrained", sharey=True
    )

    def draw_run(axes, share, place, seed):
        axes.plot(100 * share, place + heights[seed], "o", color=colours[seed], ms=5.5)

    for row in report["runs"]:
        draw_run(left, row["top1"], names.index(row["name"]), row["seed"])
    for place, row in enumerate(variants):
        if row["n"]:
            _draw_mean(left, row["mean"], place)
        found = row["difference"]
        if found:
            for seed, share in zip(found["seeds"], found["differences"], strict=True):
                draw_run(right, share, place, seed)
            _draw_mean(right, found["mean"], place, found["low"], found["high"])
    baseline = variants[names.index(report["baseline"])]
    if baseline["n"]:
        left.axvline(100 * baseline["mean"], color="0.5", ls="--", lw=1)
    right.axvline(0, color="0.5", ls="--", lw=1)
    left.set(
        yticks=range(len(names)),
        yticklabels=[name.replace(":", "\n:") for name in names],
        ylim=(len(names) - 0.4, -0.6),
        xlabel="top-1, %\npoints: runs; bar: mean; dashed: the baseline's",
    )
    right.set_xlabel(
        f"paired difference to {report['baseline']}, percentage points\n"
        "points: pairs; bar: mean; line: its 95% interval"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
        axes.set_axisbelow(True)
    for place, row in enumerate(variants):
        if row["n"]:
            _write(left, place, f"{100 * row['mean']:.2f}")
        if row["difference"]:
            _write(right, place, difference_text(row["difference"]))
    marks = [
        plt.Line2D([], [], marker="o", ls="", color=colours[seed], label=f"seed {seed}")
        for seed in seeds
    ]
    figure.legend(handles=marks, loc="outside right center", frameon=False)
    figure.suptitle(report["measure"])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def difference_text(difference):
    """Returns a paired difference and its interval, if it has one, in percentage points."""
    # What rounds to nothing has no sign.
    mean, low, high = (
        share if share is None else round(100 * share, 2) + 0.0
        for share in (difference["mean"], difference["low"], difference["high"])
    )
    return f"{mean:+.2f}" if low is None else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _draw_mean(axes, mean, place, low=None, high=None):
    height = place + MEAN_BELOW
    if low is not None:
        axes.plot([100 * low, 100 * high], [height, height], color="black", lw=1.5)
    axes.plot(100 * mean, height, "|", color="black", ms=10, mew=2)


def _write(axes, place, text):
    """Writes a row's number to the right of the axes, where no line can reach it."""
    axes.text(
        1.01,
        place + MEAN_BELOW,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color="0.25",
    )
