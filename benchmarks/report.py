"""What the benchmarks share: their parser, and a report as JSON and as Markdown."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from export.timing import rounds
from training import cli
from training.cli import InputError
from training.runs import files


class Parser(cli.Parser):
    """A parser of integer options with a minimum, and of `--output`.

    Args:
        description: String, the help text.
        name: String, the benchmark's, of its script and its files.
    """

    def __init__(self, description, name):
        super().__init__(description)
        self.name, self.least = name, {}
        self.add_argument(
            "--output",
            metavar="DIR",
            default="benchmarks/results",
            help=f"folder of {name}.json and {name}.md (default: %(default)s)",
        )

    def add_number(self, name, default, text, least=1):
        """Adds `--name`, an integer of at least `least`."""
        bound = f", at least {least}" if least > 1 else ""
        described = "" if default is None else f" (default: {default})"
        text = f"{text}{bound}{described}"
        self.add_argument(f"--{name}", type=int, default=default, metavar="N", help=text)
        self.least[name] = least

    def parse_args(self, args=None, namespace=None):
        """Returns the options, with the command line as `command`; InputError on a bad one."""
        args = sys.argv[1:] if args is None else args
        found = super().parse_args(args, namespace)
        for name, least in self.least.items():
            value = getattr(found, name.replace("-", "_"))
            if value is not None and value < least:
                raise InputError(f"--{name} {value}: expected {least} or more")
        found.command = shlex.join(["python", f"benchmarks/{self.name}.py", *args])
        return found


def new_report(args, packages):
    """Returns the first entries of a report: the options, the date, and the environment.

    Args:
        args: Parsed options; the report has all except `--output`.
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
        statistics: Return value of `rounds.percentiles`.
        form: Format specification of the numbers, such as `",.1f"`.
    """
    median, low, high = (format(statistics[key], form) for key in ("median", "p10", "p90"))
    return f"{rounds.mark(statistics)}{median} ({low}–{high})"


def table(columns, rows, words=1):
    """Returns a table in Markdown. The first `words` columns hold text, the others numbers."""
    from training import console  # needs rich, which --help does without

    return "\n".join(console.markdown_table(columns, rows, columns[:words]))


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
