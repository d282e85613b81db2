"""The pictures of a run: what is drawn in them, and that NaN leaves a gap."""

import dataclasses
import math

import matplotlib
import numpy as np
import pytest

from training import recipes
from training.runs import files, plots

ROWS = [
    {"epoch": epoch, **{key: epoch + n / 100 for n, key in enumerate(files.HISTORY_COLUMNS[1:])}}
    for epoch in (1, 2, 3)
]


@pytest.fixture
def drawn(tmp_path, figures):
    """A function: draws the curves of some rows and returns the figure."""

    def draw(rows, **settings):
        recipe = dataclasses.replace(recipes.get("fast"), **settings)
        plots.curves(rows, recipe, "a title", tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        return figures.pop()

    return draw


def legend(axes):
    return " ".join(text.get_text() for text in axes.get_legend().get_texts())


def test_curves_show_the_history(drawn):
    figure = drawn(ROWS)
    expected = {
        "cross-entropy": ["loss", "val_loss"],
        "top-1": ["top1", "val_top1"],
        "learning rate": ["learning_rate"],
    }
    for axes, (title, columns) in zip(figure.axes, expected.items(), strict=True):
        assert axes.get_title().startswith(title)
        for line, column in zip(axes.get_lines(), columns, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), [row[column] for row in ROWS])


def test_curves_name_and_mark_the_last_and_the_best_value(drawn):
    held_out = zip((2.5, 1.25, 1.75), (0.5, 0.75, 0.625), strict=True)
    values = [{"val_loss": loss, "val_top1": top1} for loss, top1 in held_out]
    loss, top1, _ = drawn([row | value for row, value in zip(ROWS, values, strict=True)]).axes
    for axes, last, best in ((loss, "1.750", "1.250"), (top1, "62.5%", "75.0%")):
        assert f"last {last}, best (★) {best}" in legend(axes)
        (star,) = [drawn for drawn in axes.collections if len(drawn.get_offsets()) == 1]
        assert star.get_offsets()[0][0] == 2, "the epoch"


@pytest.mark.parametrize("augment", [("random_flip",), ()])
@pytest.mark.parametrize("smoothing", [0.125, 0.0])
def test_curves_say_what_was_done_to_images_and_labels(drawn, augment, smoothing):
    loss, top1, _ = drawn(ROWS, augment=augment, label_smoothing=smoothing).axes
    assert ("augmented" in legend(loss)) == ("augmented" in legend(top1)) == bool(augment)
    assert ("smoothed by 0.125" in loss.get_title()) == bool(smoothing)
    assert "smoothed" not in top1.get_title(), "the accuracy does not depend on it"


def test_curves_mark_where_the_image_size_changes(drawn):
    sizes = {"epochs": 3, "progressive_sizes": (16, 16, 32)}
    for axes in drawn(ROWS, **sizes).axes:
        (above,) = axes.child_axes
        assert [label.get_text() for label in above.get_xticklabels()] == ["16 px", "32 px"]
        np.testing.assert_allclose(above.get_xticks(), [1.5, 3])
        (shaded,) = axes.patches
        assert (shaded.get_x(), shaded.get_width()) == (2.5, 1)
    for rows in (ROWS[:2], ROWS[:1]):
        assert not any(axes.child_axes for axes in drawn(rows, **sizes).axes), "all of one size"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_leave_the_others_visible(drawn, number):
    figure = drawn([ROWS[0], {**ROWS[1], "val_loss": number, "val_top1": number}, ROWS[2]])
    assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)
    drawn([{**row, "val_loss": number} for row in ROWS])


def test_predictions_name_the_prediction_first(figures, tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3))
    probabilities = np.array([[0.9, 0.1, 0], [0.25, 0.75, 0], [0, 0.375, 0.625]])
    names = ["apple", "sweet_pepper", "owl"]
    path = tmp_path / "predictions.png"
    plots.predictions(images, probabilities, [1, 1, 0], names, "a title", path, columns=2)
    panels = figures.pop().axes
    assert [axes.get_title() for axes in panels] == [
        "apple 90%,\nis sweet_pepper",
        "sweet_pepper 75%,\nright",
        "owl 62%,\nis apple",
        "",
    ]
    for image, axes in zip(images, panels, strict=False):
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), image.astype("uint8"))
    assert not panels[3].get_images()


def test_confusions_count_the_images_of_the_confused_classes(figures, tmp_path):
    labels, predictions = [0, 0, 0, 1, 2, 3], [1, 1, 0, 1, 2, 2]
    scores = {
        "labels": np.array(labels),
        "predictions": np.array(predictions),
        "probabilities": np.ones((6, 4)),
    }
    plots.confusions(scores, ["cat", "dog", "owl", "fox"], tmp_path / "confusions.png")
    (axes,) = figures.pop().axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    numbers = {
        (
            names[round(text.get_position()[1])],
            names[round(text.get_position()[0])],
        ): text.get_text()
        for text in axes.texts
    }
    assert numbers == {
        ("cat", "cat"): "1",
        ("cat", "dog"): "2",
        ("dog", "dog"): "1",
        ("owl", "owl"): "1",
        ("fox", "owl"): "1",
    }


def test_a_plot_changes_nothing_of_matplotlib_around_it(tmp_path):
    """Also where it is imported into a notebook, whose own plots are shown in its cells."""
    before = dict(matplotlib.rcParams)
    plots.learning_rates([0.1, 1.0], [3.0, 2.0], 0.5, tmp_path / "rates.png")
    assert dict(matplotlib.rcParams) == before
