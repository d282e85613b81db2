"""What a command prints: lines, tables and progress bars.

On a terminal and in a notebook a table fits its width. In a pipe or a log, nothing wraps and no
bar is drawn.
"""

import contextlib
import sys

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # characters, the width of what is not a terminal

terminal = Console(highlight=False)
if not (sys.stdout.isatty() or terminal.is_jupyter):
    terminal.width = UNLIMITED


def say(line=""):
    """Prints a line without wrapping, so that a command in it can be copied."""
    terminal.print(Text(line), soft_wrap=True)


def table(header, rows, words=None, title=None, caption=None):
    """Prints a table.

    Args:
        header: The columns' names.
        rows: Lists of strings, one for each column. A row of `None` is an empty line.
        words: The columns of text, aligned left and wrapped; the first by default. The others hold
            numbers, are aligned right and never wrap.
        title: String above the table.
        caption: String below it.
    """
    drawn = Table(
        title=title and Text(title),
        caption=caption and Text(caption),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in header:
        if _is_words(name, header, words):
            drawn.add_column(name, overflow="fold")
        else:
            drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row is None:
            drawn.add_section()
        else:
            drawn.add_row(*map(Text, row))
    terminal.print(drawn)


def markdown_table(header, rows, words=None):
    """Returns the lines of a table in Markdown, from the same arguments as `table`."""
    rule = ["---" if _is_words(name, header, words) else "---:" for name in header]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def _is_words(name, header, words):
    return name in (header[:1] if words is None else words)


@contextlib.contextmanager
def progress(label, total, background=True):
    """Shows a progress bar on a terminal while the block runs, and removes it at its end.

    Args:
        label: String before the bar.
        total: Integer, the steps.
        background: Whether a thread redraws the bar; `False` where it would disturb a timing.

    Yields:
        Function `advance(steps=1, note=None)`; the note, a string, is shown after the bar.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=terminal,
        transient=True,
        auto_refresh=background,
        disable=not terminal.is_terminal,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(steps=1, note=None):
            changes = {} if note is None else {"note": note}
            bar.update(task, advance=steps, refresh=not background, **changes)

        yield advance
