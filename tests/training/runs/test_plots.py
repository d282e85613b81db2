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


def test_curves_show_the_history(drawn):
    figure = drawn(ROWS)
    expected = {
        "cross-entropy": ["loss", "val_loss"],
        "top-1": ["top1", "val_top1"],
        "learning rate": ["learning_rate"],
    }
    assert [axes.get_title() for axes in figure.axes] == list(expected)
    for axes, columns in zip(figure.axes, expected.values(), strict=True):
        for line, column in zip(axes.get_lines(), columns, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), [row[column] for row in ROWS])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_leave_the_others_visible(drawn, number):
    figure = drawn([ROWS[0], {**ROWS[1], "val_loss": number, "val_top1": number}, ROWS[2]])
    assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)
    drawn([{**row, "val_loss": number} for row in ROWS])
