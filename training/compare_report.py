"""The files of a comparison: JSON, a row a run as CSV, a table to read, a picture."""

import csv
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from training import runs
from training.compare_plot import difference_text, draw
from training.comparison import smallest_p

CSV_COLUMNS = (
    "name",
    "arch",
    "stem",
    "seed",
    "top1",
    "top5",
    "loss",
    "parameters",
    "epochs",
    "minutes",
    "step_milliseconds",
    "folder",
)
SHOWN = ("n", "top-1 ± sd, %", "difference, points [95%]", "verdict")
NAME_WIDTH = 16  # of a variant, which a longer name fills several lines of
NUMBERS = ("parameters", "multiply-adds", "ms/step", "minutes")


def write(report, folder):
    """Writes the comparison's files into a folder, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / "compare.json", report)
    runs.write_atomically(folder / "compare.csv", lambda path: _write_csv(report["runs"], path))
    runs.write_atomically(folder / "compare.png", lambda path: draw(report, path))
    runs.write_atomically(
        folder / "compare.md", lambda path: path.write_text(markdown(report), encoding="utf-8")
    )


def show(report, console):
    """Prints the table of a comparison."""
    header, *rows = table(report)
    shown = Table(
        title=Text(report["measure"]), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    shown.add_column(header[0], overflow="fold", min_width=NAME_WIDTH)
    for column in SHOWN:
        text = column == "verdict"
        shown.add_column(column, justify="left" if text else "right", no_wrap=not text)
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        shown.add_row(*(Text(cells[column]) for column in (header[0], *SHOWN)))
    console.print(shown)
    for line in notes(report):
        console.print(Text(line), soft_wrap=True)


def table(report):
    """Returns the header and a row of strings a variant; accuracies and differences in percent."""
    header = ("variant", "n", "top-1 ± sd, %", "range, %", "difference, points [95%]")
    header += ("p, permutation", "verdict", *NUMBERS)
    return [header, *(_row(row, report["baseline"]) for row in report["variants"])]


def _row(row, baseline):
    found = row["difference"] or {}
    deviation = f" ± {_percent(row['std'])}" if row["std"] is not None else ""
    verdict = "baseline" if row["name"] == baseline else found.get("verdict", "no common seed")
    return (
        row["name"],
        str(row["n"]),
        f"{_percent(row['mean'])}{deviation}",
        f"{_percent(row['min'])}–{_percent(row['max'])}" if row["n"] > 1 else "–",
        difference_text(found) if found else "–",
        _number(found.get("p_permutation"), ".3g"),
        verdict,
        _number(row["parameters"], ",.0f"),
        _number(row["multiply_adds"], ",.0f"),
        _number(row["step_milliseconds"], ",.1f"),
        _number(row["minutes"], ",.1f"),
    )


def _number(value, form):
    return "–" if value is None else format(value, form)


def _percent(share):
    return _number(None if share is None else 100 * share, ".2f")


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
    header, *rows = table(report)
    lines = [
        f"# {' · '.join(row['name'] for row in report['variants'])}",
        "",
        _cells(header),
        _cells(["---", *["---:"] * 5, "---", *["---:"] * len(NUMBERS)]),
        *map(_cells, rows),
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
        f"{report['environment']['machine']}; {_versions(report)}.",
        "",
    ]
    return "\n".join(lines)


def _cells(cells):
    return f"| {' | '.join(cells)} |"


def _versions(report):
    versions = report["environment"]["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras", "python"))


def _write_csv(rows, path):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
