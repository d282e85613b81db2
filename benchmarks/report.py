"""What the benchmarks share: their options, and a report as JSON and as Markdown."""

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from export.timing import rounds
from training.cli import InputError
from training.runs import files


def add_batch_size(group, default=64, described="%(default)s"):
    """Adds `--batch-size`."""
    group.add_argument(
        "--batch-size",
        type=int,
        default=default,
        metavar="N",
        help=f"images per batch (default: {described})",
    )


def add_rounds(parser, timed, default, least):
    """Adds `--rounds` and `--threads`; returns their group.

    Args:
        parser: The parser.
        timed: String, what is timed once per round.
        default: Integer, rounds.
        least: Integer, the smallest value that `check` accepts.
    """
    group = parser.add_argument_group("how it is measured")
    group.add_argument(
        "--rounds",
        type=int,
        default=default,
        metavar="N",
        help=f"{timed}, at least {least} (default: %(default)s)",
    )
    group.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="threads of each contender (default: %(default)s, the cores of this machine)",
    )
    return group


def add_output(parser, name):
    """Adds `--output`, the folder of `name.json` and `name.md`."""
    parser.add_argument_group("output").add_argument(
        "--output",
        metavar="DIR",
        default="benchmarks/results",
        help=f"folder of {name}.json and {name}.md (default: %(default)s)",
    )


def parse(parser, name, argv):
    """Returns the parsed options, and among them the command line as `command`."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", f"benchmarks/{name}.py", *argv])
    return args


def check(args, **least):
    """Raises an InputError if an option, given by its attribute's name, is below its minimum."""
    for option, value in least.items():
        if getattr(args, option) < value:
            name = option.replace("_", "-")
            raise InputError(f"--{name} {getattr(args, option)}: expected {value} or more")


def new_report(args, packages):
    """Returns the first entries of a report: what was run, when, and on what.

    Args:
        args: Return value of `parse`; all is in the report except `--output`.
        packages: Names of the packages whose versions matter.
    """
    return {
        **{option: value for option, value in vars(args).items() if option != "output"},
        "environment": files.environment(packages),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def caption(report):
    """Returns a line with the command, the machine, the versions and the commit."""
    environment = report["environment"]
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items() if v)
    return (
        f"`{report['command']}`; {environment['machine']}; {versions}; "
        f"commit {environment['git_revision']}"
    )


def cell(statistics, form):
    """Returns a table's cell: the median, "~" before it if it is noisy, and the percentiles.

    Args:
        statistics: Return value of `timing.percentiles`.
        form: Format specification of the numbers, such as `",.1f"`.
    """
    median, low, high = (format(statistics[key], form) for key in ("median", "p10", "p90"))
    return f"{rounds.mark(statistics)}{median} ({low}–{high})"


def table(columns, rows, words=1):
    """Returns a table in Markdown. The first `words` columns are left-aligned, the others right."""
    cells = [columns, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    signs = ["<" if place < words else ">" for place in range(len(columns))]
    lines = [
        " | ".join(f"{cell:{s}{w}}" for cell, s, w in zip(row, signs, widths, strict=True))
        for row in cells
    ]
    rules = ["-" * w + ("--" if s == "<" else "-:") for s, w in zip(signs, widths, strict=True)]
    header, *body = (f"| {line} |" for line in lines)
    return "\n".join([header, f"|{'|'.join(rules)}|", *body])


def write(folder, name, report, page):
    """Prints a page of Markdown, and writes `name.md` and `name.json`.

    Args:
        folder: Path, created if needed.
        name: String, the benchmark's.
        report: Dictionary, for the JSON file.
        page: List of strings, the page's paragraphs and tables.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(page) + "\n"
    files.write_atomically(
        folder / f"{name}.md", lambda temporary: temporary.write_text(text, encoding="utf-8")
    )
    files.write_json(folder / f"{name}.json", report)
    print(f"{text}\nwritten: {folder}/{name}.json, {name}.md")
