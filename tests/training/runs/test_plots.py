"""The pictures of a run: what is drawn in them, and that NaN leaves a gap."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from training.runs import files, plots

ROWS = [
    {"epoch": epoch, **{key: epoch + n / 100 for n, key in enumerate(files.HISTORY_COLUMNS[1:])}}
    for epoch in (1, 2, 3)
]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A function: draws the curves of some rows and returns the figure."""
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)

    def draw(rows):
        plots.curves(rows, "a title", tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        return kept.pop()

    yield draw
    monkeypatch.undo()
    plt.close("all")


def test_curves_are_those_of_the_history(drawn):
    figure = drawn(ROWS)
    expected = {
        "cross-entropy": {"training": "loss", "held out": "val_loss"},
        "top-1": {"training": "top1", "held out": "val_top1"},
        "learning rate": {None: "learning_rate"},
    }
    assert [axes.get_title() for axes in figure.axes] == list(expected)
    for axes, columns in zip(figure.axes, expected.values(), strict=True):
        lines = axes.get_lines()
        assert len(lines) == len(columns)
        for line, (label, column) in zip(lines, columns.items(), strict=True):
            assert label in (None, line.get_label())
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), [row[column] for row in ROWS])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_leave_the_others_visible(drawn, number):
    rows = [ROWS[0], {**ROWS[1], "val_loss": number, "val_top1": number}, ROWS[2]]
    figure = drawn(rows)
    for axes in figure.axes:
        assert np.isfinite(axes.get_ylim()).all()
    drawn([{**row, "val_loss": number} for row in ROWS])
