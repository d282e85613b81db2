"""The picture of a comparison: what is drawn, what is off the scale, and which words go with it."""

import itertools

import pytest

from training.comparing import report, statistics

NEAR = {"r18": 0.52, "r18_nam": 0.525, "r18_se": 0.522}


@pytest.fixture
def drawn(tmp_path, figures):
    """A function: draws variants' top-1 with some seeds and returns the two panels."""

    def draw(top1, seeds):
        rows = [
            {"name": name, "seed": seed, "top1": share * (1 + 0.004 * seed)}
            for name, share in top1.items()
            for seed in seeds
        ]
        costs = dict.fromkeys(statistics.COSTS, 1)
        variants = statistics.compare([row | costs for row in rows], "r18", dict.fromkeys(top1, 1))
        content = {"measure": "top-1", "baseline": "r18", "variants": variants, "runs": rows}
        report.draw(content, tmp_path / "compare.png")
        return figures.pop().axes

    return draw


def points(axes):
    """Returns the places of the points, across."""
    lines = [line for line in axes.get_lines() if line.get_marker() == "o"]
    return sorted(float(line.get_xdata()[0]) for line in lines)


def words(axes):
    return " ".join(text.get_text() for text in axes.texts)


def test_runs_means_and_differences(drawn):
    left, right = drawn(NEAR, [0, 1, 2])
    assert len(points(left)) == 9
    assert len(points(right)) == 6
    assert "baseline" in words(right)
    assert "off the scale" not in words(left) + words(right)
    assert "95%" in right.get_xlabel()


@pytest.mark.parametrize(("share", "arrow"), [(0.36, "◀"), (0.9, "▶")])
def test_an_outlier_does_not_squeeze_the_others(drawn, share, arrow):
    panels = drawn({**NEAR, "r18_bam": share}, [0, 1, 2])
    for axes, expected in zip(panels, (9, 6), strict=True):
        assert len(points(axes)) == expected
        assert arrow in words(axes)
        low, high = axes.get_xlim()
        assert high - low < 4, "percentage points"
    assert f"{100 * share:.0f}" in words(panels[0]), "its mean is written"


def test_one_variant_far_from_the_baseline_is_drawn(drawn):
    left, _ = drawn({"r18": 0.52, "r18_nam": 0.9}, [0, 1])
    assert len(points(left)) == 4
    assert left.get_xlim()[1] > 90


def test_a_baseline_far_from_the_others_is_drawn(drawn):
    left, right = drawn({**NEAR, "r18_eca": 0.52, "r18": 0.3}, [0, 1])
    assert len(points(left)) == 8
    assert right.get_xlim()[0] < 0 < right.get_xlim()[1]


def test_one_seed_promises_no_interval(drawn):
    for axes in drawn(NEAR, [3]):
        assert "no interval" in axes.get_xlabel()
        assert "95%" not in axes.get_xlabel()
        assert not [line for line in axes.get_lines() if line.get_marker() == "|"], "no mean"


def test_the_names_do_not_overlap(drawn):
    settings = ":epochs=6:batch_size=128:learning_rate=0.2:label_smoothing=0"
    left, _ = drawn({"r18": 0.5, f"r18_nam{settings}": 0.6, f"r18_se{settings}": 0.6}, [0])
    boxes = [label.get_window_extent() for label in left.get_yticklabels()]
    assert all(lower.y1 < upper.y0 for upper, lower in itertools.pairwise(boxes))
