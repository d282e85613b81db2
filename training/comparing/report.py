"""The report on a comparison: JSON, a CSV row a run, a Markdown table, a picture."""

import csv
from datetime import UTC, datetime

import numpy as np
from matplotlib.lines import Line2D

from training import console, jobs
from training.comparing import statistics
from training.comparing.multiply_adds import multiply_adds
from training.runs import files, style
from training.settings import as_json

# The columns of the table: what each has of a variant's row in compare.json.
COLUMNS = {
    "variant": lambda row: row["name"],
    "n": lambda row: str(row["n"]),
    "top-1 ± sd, %": lambda row: _joined(" ± ", row["mean"], row["std"]),
    "range, %": lambda row: _joined("–", row["min"], row["max"]) if row["n"] > 1 else "–",
    "difference, points [95%]": lambda row: _difference(row["difference"]),
    "p, Holm": lambda row: _number((row["difference"] or {}).get("p_holm"), ".3g"),
    "p, permutation": lambda row: _number((row["difference"] or {}).get("p_permutation"), ".3g"),
    "verdict": lambda row: row["verdict"],
    "parameters": lambda row: _number(row["parameters"], ",.0f"),
    "multiply-adds": lambda row: _number(row["multiply_adds"], ",.0f"),
    "ms/step": lambda row: _number(row["step_milliseconds"], ",.1f"),
    "minutes": lambda row: _number(row["minutes"], ",.1f"),
}
WORDS = ("variant", "verdict")
SHOWN = ("variant", "n", "top-1 ± sd, %", "difference, points [95%]", "verdict")
# Where a variant's row of the picture has its runs and their mean, as shares of its height.
RUNS_ABOVE, MEAN_BELOW = (-0.3, -0.05), 0.2
# A row further away than this many times the width of the others is only named at the border.
FAR = 4
OFF_SCALE = {-1: (0.02, "left", "◀ off the scale"), 1: (0.98, "right", "off the scale ▶")}


def content(planned, variants, baseline, options, command):
    """Returns the content of `compare.json`, from the runs that are finished.

    Args:
        planned: List of `grid.Run`, at least one finished.
        variants: Dictionary, name to `jobs.Job`.
        baseline: The name of a variant.
        options: Dictionary, the command's options that all runs share.
        command: String, the command line.
    """
    finished = [run for run in planned if run.finished]
    rows = [statistics.figures(run) for run in finished]
    costs = {name: _multiply_adds(name, job, finished) for name, job in variants.items()}
    return {
        "measure": _measure(finished[0], options),
        "baseline": baseline,
        "recipe": planned[0].job.recipe_name,
        "data": rows[0]["data"],
        "variants": statistics.compare(rows, baseline, costs),
        "runs": rows,
        "missing": [run.folder.name for run in planned if run not in finished],
        "settings": {name: _settings(job) for name, job in variants.items()},
        "options": options,
        "command": command,
        "environment": files.environment((*files.PACKAGES, "scipy")),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _measure(run, options):
    """Returns in words what `statistics.figures` takes from a run."""
    if options["validation_split"]:
        return "top-1 on the validation split, last epoch"
    held_out = files.read_json(run.record / "config.json").get("held_out", "")
    epoch = "the epoch with the best validation top-1" if "validation" in held_out else "last epoch"
    return f"top-1 on the test set, {epoch}"


def _multiply_adds(name, job, finished):
    """Returns the multiply-adds of a variant, with the stem and the size of its finished runs."""
    of_variant = [run for run in finished if run.variant == name] or finished
    config = files.read_json(of_variant[0].record / "config.json")
    size = tuple(config.get("image_size", jobs.OLD_IMAGE_SIZE))
    return multiply_adds(job.arch, job.stem or config["stem"], config["classes"], size)


def _settings(job):
    named = {"arch": job.arch, "recipe": job.recipe_name, "stem": job.stem}
    return {**named, **as_json(job.recipe)}


def write(report, folder):
    """Writes the comparison's files into a folder, each atomically."""
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
    """Prints the table of a comparison and its notes."""
    console.table(SHOWN, table(report, SHOWN), WORDS, title=report["measure"])
    for line in notes(report):
        console.say(line)


def table(report, columns):
    """Returns a row of strings a variant; accuracies and differences in percent."""
    rows = []
    for variant in report["variants"]:
        found = variant["difference"] or {"verdict": "no common seed"}
        is_baseline = variant["name"] == report["baseline"]
        row = {**variant, "verdict": "baseline" if is_baseline else found["verdict"]}
        rows.append([COLUMNS[name](row) for name in columns])
    return rows


def _number(value, form):
    return "–" if value is None else format(value, form)


def _percent(share):
    return _number(None if share is None else 100 * share, ".2f")


def _joined(sign, first, second):
    return _percent(first) + ("" if second is None else sign + _percent(second))


def _difference(difference):
    """Returns a paired difference and its interval, if it has one, in percentage points."""
    if difference is None:
        return "–"
    mean, low, high = (_points(difference[key]) for key in ("mean", "low", "high"))
    return mean if low is None else f"{mean} [{low}, {high}]"


def _points(share):
    # Adding 0.0 makes -0.0, which a small number may round to, 0.0.
    return None if share is None else f"{round(100 * share, 2) + 0.0:+.2f}"


def notes(report):
    """Returns the notes on the table, one line each."""
    lines = [f"Measured: {report['measure']}."]
    if report["missing"]:
        count = len(report["missing"])
        lines.append(
            f"Not finished: {count} of {count + len(report['runs'])} runs. compare.json lists them."
        )
    pairs = [row["difference"]["seeds"] for row in report["variants"] if row["difference"]]
    counts = sorted({len(seeds) for seeds in pairs})
    if 1 in counts:
        lines.append("One pair has no interval: a spread takes two seeds, better five.")
    for count in counts:
        if count > 1:
            p = 2 / 2**count
            lines.append(f"With {count} pairs the permutation test's p cannot fall below {p:.3g}.")
    tested = sum(len(seeds) > 1 for seeds in pairs)
    if tested > 1:
        lines.append(
            "A variant is called better or worse if Holm's p is below 0.05: the t-test's p, "
            f"corrected for all {tested} comparisons. The intervals are not corrected, so an "
            "interval may exclude 0 where no difference is shown."
        )
    found = [row["difference"]["detectable"] for row in report["variants"] if row["difference"]]
    found = [100 * points for points in found if points is not None]
    if found:
        lines.append(
            "With these spreads, a true difference of "
            f"{' to '.join(f'{end:.2g}' for end in sorted({min(found), max(found)}))} points would "
            "be shown in about 80% of such comparisons, before Holm's correction."
        )
    if len({str(row["environment"]) for row in report["runs"]}) > 1:
        lines.append(
            "The versions, machines or revisions of the runs differ. compare.json lists them."
        )
    return lines


def markdown(report):
    """Returns the content of `compare.md`: the table, its notes, and the command."""
    environments = [run["environment"] for run in report["runs"]]
    machines = _distinct(environment["machine"] for environment in environments)
    packages = ", ".join(
        f"{name} {_distinct(environment['versions'][name] for environment in environments)}"
        for name in ("tensorflow", "keras", "python")
    )
    bullets = [
        *notes(report),
        "A seed gives every variant the same images in the same order with the same augmentation "
        "draws, and the same initial weights to the layers that they share. So the difference is "
        f"taken seed by seed: variant minus `{report['baseline']}`, in percentage points, over the "
        "seeds that both have.",
        "The interval is Student's t on these differences. Where no difference is shown, there may "
        "be one as large as the interval's ends. The permutation test (exact, two-sided, flips the "
        "differences' signs) is a check that assumes no normal distribution.",
        "sd: sample standard deviation over seeds. Multiply-adds: of convolutions and dense "
        "layers, an image. ms/step: median over the epochs of full size, training alone; minutes: "
        "a run's; both with whatever else the machine did, runs beside it (--jobs) included.",
        "`compare.csv` has a row a run, `compare.json` everything, `runs/` each run's settings, "
        "result and epochs.",
    ]
    blocks = [
        f"# {report['measure'].capitalize()}",
        "\n".join(console.markdown_table(COLUMNS, table(report, COLUMNS), WORDS)),
        "![Top-1 of every run and the paired differences](compare.png)",
        "## How to read it",
        "\n".join(f"- {bullet}" for bullet in bullets),
        "## How it was made",
        f"```\n{report['command']}\n```",
        f"Recipe `{report['recipe']}`; {report['data']}; {machines}; {packages}.\n",
    ]
    return "\n\n".join(blocks)


def _distinct(values):
    return " / ".join(dict.fromkeys(map(str, values)))


@style.drawing
def draw(report, path):
    """Draws every run's top-1, and the paired differences with their mean and 95% interval."""
    variants, names = report["variants"], [row["name"] for row in report["variants"]]
    seeds = sorted({row["seed"] for row in report["runs"]})
    heights = np.linspace(*RUNS_ABOVE, len(seeds)) if len(seeds) > 1 else [0]
    dots = {
        seed: (height, f"C{number}")
        for number, (seed, height) in enumerate(zip(seeds, heights, strict=True))
    }
    tall = max(0.6, 0.22 * max(name.count(":") + 1 for name in names))
    figure, (left, right) = style.subplots(1, 2, (12, 1.9 + tall * len(names)), sharey=True)
    baseline = names.index(report["baseline"])
    runs, pairs = [], []
    for row in variants:
        found = row["difference"] or {"seeds": [], "differences": []}
        top1 = {run["seed"]: run["top1"] for run in report["runs"] if run["name"] == row["name"]}
        differences = dict(zip(found["seeds"], found["differences"], strict=True))
        mean = _joined(" ± ", row["mean"], row["std"]) if top1 else "not finished"
        runs.append((top1, row, mean))
        pairs.append((differences, found, _difference(row["difference"])))
    pairs[baseline] = ({}, {}, "baseline")
    _draw_rows(left, runs, baseline, variants[baseline]["mean"], dots)
    _draw_rows(right, pairs, baseline, 0, dots)
    left.set(
        yticks=range(len(names)),
        yticklabels=[name.replace(":", "\n:") for name in names],
        ylim=(len(names) - 0.4, -0.6),
        xlabel="top-1, %; dashed: baseline\n"
        + _marks(runs, "run", "bar: mean; on the right: mean ± sd"),
    )
    right.set_xlabel(
        "difference from the baseline, same seed, percentage points\n"
        + _marks(pairs, "pair", "bar: mean; line: 95% interval; both on the right")
    )
    marks = [
        Line2D([], [], marker="o", ls="", color=colour, label=f"seed {seed}")
        for seed, (_, colour) in dots.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", frameon=False, ncols=8)
    figure.suptitle(report["measure"].capitalize())
    style.save(figure, path)


def _marks(rows, one, of_several):
    """Returns the words for what is drawn: one point a row, or several and their summary."""
    if max(len(points) for points, *_ in rows) < 2:
        return f"one {one} each: no interval"
    return f"points: {one}s; {of_several}"


def _draw_rows(axes, rows, baseline, dashed, dots):
    """Draws a panel: a row a variant, of its shares by seed, their summary, and a text."""
    axes.grid(visible=False, axis="y")
    if dashed is not None:
        axes.axvline(100 * dashed, color=style.GREY, ls="--", lw=1)
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    far = _far(rows, baseline, dashed)
    for place, (points, summary, text) in enumerate(rows):
        axes.text(1.01, place, text.replace("-", "−"), color="0.25", **beside)
        if place in far:
            edge, side, words = OFF_SCALE[far[place]]
            axes.text(edge, place, words, ha=side, **beside)
            continue
        for seed, share in points.items():
            height, colour = dots[seed]
            axes.plot(100 * share, place + height, "o", color=colour, ms=5.5)
        height = place + MEAN_BELOW
        if len(points) > 1:
            axes.plot(100 * summary["mean"], height, "|", color="black", ms=10, mew=2)
        if summary.get("low") is not None:
            ends = [100 * summary["low"], 100 * summary["high"]]
            axes.plot(ends, [height, height], color="black", lw=1.5)


def _far(rows, baseline, dashed):
    """Returns the rows that would squeeze the others, at most a third: place -> sign.

    The sign says on which side of the others such a row is.
    """
    spans = {
        place: np.array([*points.values(), summary.get("low"), summary.get("high")], float)
        for place, (points, summary, _) in enumerate(rows)
        if points
    }
    if dashed is not None:
        spans.setdefault(baseline, np.array([dashed]))
    centres = {place: np.nanmean(span) for place, span in spans.items()}
    middle = np.median([*centres.values()])
    order = sorted(centres, key=lambda place: abs(centres[place] - middle))
    near = np.concatenate([spans[place] for place in order[: -(-2 * len(order) // 3)]])
    reach = FAR * (np.nanmax(near) - np.nanmin(near))
    return {
        place: np.sign(centres[place] - middle)
        for place in order
        if place != baseline and abs(centres[place] - middle) > reach > 0
    }
