"""The files of a comparison: JSON, a row a run as CSV, a table to read, a picture."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from training import console
from training.comparing.statistics import smallest_p
from training.runs import files

# The columns of the table: what each has of a variant's row in compare.json.
COLUMNS = {
    "variant": lambda row: row["name"],
    "n": lambda row: str(row["n"]),
    "top-1 ± sd, %": lambda row: _percent(row["mean"]) + _deviation(row["std"]),
    "range, %": lambda row: (
        f"{_percent(row['min'])}–{_percent(row['max'])}" if row["n"] > 1 else "–"
    ),
    "difference, points [95%]": lambda row: difference_text(row["difference"]),
    "p, permutation": lambda row: _number((row["difference"] or {}).get("p_permutation"), ".3g"),
    "verdict": lambda row: row["verdict"],
    "parameters": lambda row: _number(row["parameters"], ",.0f"),
    "multiply-adds": lambda row: _number(row["multiply_adds"], ",.0f"),
    "ms/step": lambda row: _number(row["step_milliseconds"], ",.1f"),
    "minutes": lambda row: _number(row["minutes"], ",.1f"),
}
WORDS = ("variant", "verdict")
SHOWN = ("variant", "n", "top-1 ± sd, %", "difference, points [95%]", "verdict")
RUNS_ABOVE, MEAN_BELOW = (
    (-0.3, -0.05),
    0.2,
)  # a variant's row in the picture, in parts of its height


def write(report, folder):
    """Writes the comparison's files into a folder, each atomically."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "compare.json", report)
    files.write_atomically(folder / "compare.csv", lambda path: _write_csv(report["runs"], path))
    files.write_atomically(folder / "compare.png", lambda path: draw(report, path))
    files.write_atomically(
        folder / "compare.md", lambda path: path.write_text(markdown(report), encoding="utf-8")
    )


def _write_csv(rows, path):
    columns = [key for key in rows[0] if key not in ("classes", "data", "environment")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(report):
    """Prints the table of a comparison and what a reader must know beside it."""
    console.table(SHOWN, table(report, SHOWN), WORDS, title=report["measure"])
    for line in notes(report):
        console.say(line)


def table(report, columns):
    """Returns a row of strings a variant; accuracies and differences in percent."""
    rows = []
    for variant in report["variants"]:
        verdict = (variant["difference"] or {"verdict": "no common seed"})["verdict"]
        if variant["name"] == report["baseline"]:
            verdict = "baseline"
        row = {**variant, "verdict": verdict}
        rows.append([COLUMNS[name](row) for name in columns])
    return rows


def _number(value, form):
    return "–" if value is None else format(value, form)


def _percent(share):
    return _number(None if share is None else 100 * share, ".2f")


def _deviation(share):
    return "" if share is None else f" ± {_percent(share)}"


def difference_text(difference):
    """Returns a paired difference and its interval, if it has one, in percentage points."""
    if difference is None:
        return "–"
    # What rounds to nothing has no sign.
    mean, low, high = (
        share if share is None else round(100 * share, 2) + 0.0
        for share in (difference["mean"], difference["low"], difference["high"])
    )
    return f"{mean:+.2f}" if low is None else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def notes(report):
    """Returns what a reader must know beside the table, a line each."""
    lines = [f"Measured: {report['measure']}."]
    if report["missing"]:
        lines.append(f"Not finished: {', '.join(report['missing'])}.")
    pairs = [row["difference"]["seeds"] for row in report["variants"] if row["difference"]]
    counts = sorted({len(seeds) for seeds in pairs})
    if 1 in counts:
        lines.append("One pair has no interval: a spread takes two seeds, better five.")
    lines += [
        f"With {count} pairs the permutation test's p cannot fall below {smallest_p(count):.3g}."
        for count in counts
        if count > 1
    ]
    if len(pairs) > 1 and max(counts) > 1:
        lines.append(
            f"Each interval is by itself: of {len(pairs)} comparisons without any difference, "
            f"{0.05 * len(pairs):.2g} would on average be called better or worse."
        )
    if len({str(row["environment"]) for row in report["runs"]}) > 1:
        lines.append(
            "The runs' versions, machines or revisions differ; compare.json has those of each."
        )
    return lines


def markdown(report):
    """Returns the table with how to read it and the command that makes it."""
    versions = report["environment"]["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras", "python"))
    lines = [
        f"# {' · '.join(row['name'] for row in report['variants'])}",
        "",
        *console.markdown_table(COLUMNS, table(report, COLUMNS), WORDS),
        "",
        "![Top-1 of every run and the paired differences](compare.png)",
        "",
        "## How to read it",
        "",
        *(f"- {line}" for line in notes(report)),
        "- A seed gives every variant the same images in the same order with the same augmentation "
        "draws, and the same initial weights to the layers that they share. So the difference is "
        f"taken seed by seed: variant minus `{report['baseline']}`, in percentage points, over the "
        "seeds that both have.",
        "- The interval is Student's t on these differences; where it holds 0, no difference is "
        "shown, which is not to say that there is none: its width says how large a difference "
        "could have hidden. The permutation test (exact, two-sided, flips the differences' signs) "
        "is a check that assumes no normal distribution.",
        "- sd: sample standard deviation over seeds. Multiply-adds: of convolutions and dense "
        "layers, an image. ms/step: median over the epochs of full size, training alone; minutes: "
        "a run's; both with whatever else the machine did, runs beside it (--jobs) included.",
        "- `compare.csv` has a row a run, `compare.json` everything, `runs/` each run's settings, "
        "result and epochs.",
        "",
        "## How it was made",
        "",
        "```",
        report["command"],
        "```",
        "",
        f"Recipe `{report['recipe']}`; {report['data']}; "
        f"{report['environment']['machine']}; {packages}.",
        "",
    ]
    return "\n".join(lines)


def draw(report, path):
    """Draws every run's top-1, and the paired differences with their mean and 95% interval.

    Args:
        report: Dictionary, the content of `compare.json`.
        path: Where the PNG is written.
    """
    variants = report["variants"]
    names = [row["name"] for row in variants]
    seeds = sorted({row["seed"] for row in report["runs"]})
    colours = {seed: f"C{number}" for number, seed in enumerate(seeds)}
    heights = dict(zip(seeds, np.linspace(*RUNS_ABOVE, len(seeds)), strict=True))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 1.8 + 0.6 * len(names)), layout="constrained", sharey=True
    )
    for place, row in enumerate(variants):
        points = {run["seed"]: run["top1"] for run in report["runs"] if run["name"] == row["name"]}
        panels = [(left, points, row, _percent(row["mean"]))] if points else []
        found = row["difference"]
        if found:
            pairs = dict(zip(found["seeds"], found["differences"], strict=True))
            panels.append((right, pairs, found, difference_text(found)))
        for axes, points, summary, text in panels:
            for seed, share in points.items():
                axes.plot(100 * share, place + heights[seed], "o", color=colours[seed], ms=5.5)
            _draw_mean(axes, place + MEAN_BELOW, summary, text)
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
    marks = [
        plt.Line2D([], [], marker="o", ls="", color=colours[seed], label=f"seed {seed}")
        for seed in seeds
    ]
    figure.legend(handles=marks, loc="outside right center", frameon=False)
    figure.suptitle(report["measure"])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_mean(axes, height, summary, text):
    """Draws a mean, its interval if it has one, and the number to the right of the axes."""
    if summary.get("low") is not None:
        ends = [100 * summary["low"], 100 * summary["high"]]
        axes.plot(ends, [height, height], color="black", lw=1.5)
    axes.plot(100 * summary["mean"], height, "|", color="black", ms=10, mew=2)
    axes.text(
        1.01,
        height,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color="0.25",
    )
