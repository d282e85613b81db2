"""What a command prints, into a pipe and on a terminal."""

import io

import pytest
from rich.console import Console

from training import console

HEADER = ("name", "top-1, %", "verdict")
ROWS = [["a" * 60, "1.0", "worse"], ["[b]", "10.25", "better " * 12]]


@pytest.fixture
def terminal(monkeypatch):
    """What is printed on a terminal of 80 columns."""
    file = io.StringIO()
    drawn = Console(file=file, width=80, force_terminal=True, highlight=False, color_system=None)
    monkeypatch.setattr(console, "terminal", drawn)
    return file


def test_a_table_in_a_pipe_does_not_wrap(capsys):
    console.table(HEADER, [ROWS[0], None, ROWS[1]], words=("name", "verdict"), title="all [2]")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    title, _, header, rule, first, between, second, _ = lines
    assert (title, between) == ("all [2]", "")
    assert header.split() == ["name", "top-1,", "%", "verdict"]
    assert set(rule.strip()) == {"─"}
    assert first.split() == ROWS[0]
    assert second.split() == ["[b]", "10.25", *["better"] * 12]
    assert first.index("1.0") == second.index("10.25") + 2  # numbers end together


def test_a_table_on_a_terminal_fits_it_and_breaks_no_number(terminal):
    console.table(HEADER, ROWS, words=("name", "verdict"))
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) > 6
    assert "10.25" in terminal.getvalue()


def test_a_line_is_not_wrapped_and_no_markup(terminal, capsys):
    console.say("[bold] " + "x" * 200)
    assert terminal.getvalue() == "[bold] " + "x" * 200 + "\n"


def test_markdown():
    assert console.markdown_table(("a", "b"), [["x", "1"]]) == [
        "| a | b |",
        "| --- | ---: |",
        "| x | 1 |",
    ]


def test_progress_shows_steps_and_note_on_a_terminal_only(terminal, capsys, monkeypatch):
    with console.progress("runs", 4, background=False) as advance:
        advance(2)
        advance(0, "of r18")
        advance()
        console.say("a line between")
    shown = terminal.getvalue()
    assert "3/4" in shown
    assert "of r18" in shown
    assert "a line between\n" in shown
    monkeypatch.setattr(console, "terminal", Console(force_terminal=False))
    with console.progress("runs", 4) as advance:
        advance()
    assert capsys.readouterr().out == ""
