"""The statistics, on stored numbers, and what a network costs."""

import math

import keras
import numpy as np
import pytest
from scipy import stats

import keras_nam
from training import jobs, recipes
from training.comparing import grid, statistics
from training.comparing.multiply_adds import multiply_adds
from training.runs import files

PLAIN = {0: 0.6612, 1: 0.6650, 2: 0.6587, 3: 0.6631, 4: 0.6609}
NAM = {0: 0.6664, 1: 0.6671, 2: 0.6590, 3: 0.6690, 4: 0.6622}


def paired(values, baseline):
    return statistics.difference(dict(enumerate(values)), dict(enumerate(baseline)))


def compared(*differences):
    """Returns the difference of each variant from a baseline of zeros."""
    costs = dict.fromkeys(statistics.COSTS, 1)
    columns = [(0, 0, 0), *differences]
    rows = [
        {"name": name, "seed": seed, "top1": top1, **costs}
        for name, column in enumerate(columns)
        for seed, top1 in enumerate(column)
    ]
    variants = statistics.compare(rows, 0, dict.fromkeys(range(len(columns)), 1))
    return [row["difference"] for row in variants[1:]]


def test_interval_and_p_are_scipys():
    found = statistics.difference(NAM, PLAIN)
    test = stats.ttest_rel(list(NAM.values()), list(PLAIN.values()))
    interval = test.confidence_interval(0.95)
    assert (found["low"], found["high"]) == (interval.low, interval.high)
    assert found["p_t"] == test.pvalue
    assert found["p_permutation"] == 2 / 2**5  # all of one sign


def test_interval_by_hand():
    """Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975; 2) = 4.302653."""
    found = paired([1.1, 2.2, 3.3], [0.1, 0.2, 0.3])
    half = 4.302653 / math.sqrt(3)
    assert found["mean"] == pytest.approx(2)
    assert found["std"] == pytest.approx(1)
    assert (found["low"], found["high"]) == pytest.approx((2 - half, 2 + half), abs=1e-6)


def test_holm_by_hand():
    """0.01 * 4, 0.015 * 3 = 0.045, 0.03 * 2, and 0.04 * 1, which is not below the one before."""
    assert statistics.holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert statistics.holm([0.7, 0.8]) == [1, 1]
    assert statistics.holm([]) == []


def test_holm_corrects_for_the_comparisons_that_have_an_interval():
    two, one = compared([0.1, 0.101, 0.104], [0.2])
    assert two["p_holm"] == two["p_t"] < 0.01
    assert one["p_holm"] is None


def test_what_80_percent_of_comparisons_show():
    """By simulation: pairs of this spread around the difference that is named."""
    found = paired([1.1, 2.2, 3.3, 4.1, 2.9], [0.1, 0.2, 0.3, 0.5, 0.4])
    rng = np.random.default_rng(0)
    trials = rng.normal(found["detectable"], found["std"], (20_000, 5))
    shown = stats.ttest_1samp(trials, 0, axis=1).pvalue < 0.05
    assert shown.mean() == pytest.approx(0.8, abs=0.05)


def test_permutation_by_hand():
    """Of the 8 signs of (4, -1, 2), mean 5/3: 7, 5, 3, 1 and their negatives; 4 reach |5|."""
    assert paired([4, -1, 2], [0, 0, 0])["p_permutation"] == 4 / 8


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.010, 0.011, 0.012], "better"),
        ([-0.010, -0.011, -0.012], "worse"),
        ([-0.010, 0.011, 0.012], "no difference shown"),
        ([0, 0, 0], "no difference shown"),
        ([0.0012, 0.0012], "better"),
        ([0.0012], "one pair: no interval"),
    ],
)
def test_verdict(differences, verdict):
    assert compared(differences)[0]["verdict"] == verdict


def test_the_verdict_is_corrected_for_all_comparisons():
    """p = 0.0091 with 3 pairs, times 5 is 0.046 and times 6 is 0.055."""
    close, far = [0.010, 0.012, 0.014], [0.010, -0.011, 0.012]
    assert compared(close)[0]["p_t"] == pytest.approx(0.0091, abs=1e-4)
    assert compared(close, *4 * [far])[0]["verdict"] == "better"
    found = compared(close, *5 * [far])[0]
    assert found["verdict"] == "no difference shown"
    assert found["low"] > 0


@pytest.mark.filterwarnings("error")
def test_equal_differences_have_an_interval_of_no_width():
    found = statistics.difference(PLAIN, dict(PLAIN))
    assert (found["mean"], found["low"], found["high"], found["std"]) == (0, 0, 0, 0)
    assert (found["p_t"], found["p_permutation"]) == (1, 1)
    # 0.0012 twice, except for rounding.
    found = paired([0.6664, 0.6462], [0.6652, 0.6450])
    assert (found["low"], found["high"]) == pytest.approx((0.0012, 0.0012))
    assert (found["p_t"], found["p_permutation"]) == (0, 0.5)


@pytest.mark.filterwarnings("error")
def test_only_common_seeds_are_paired():
    found = statistics.difference({2: 0.9, 0: 0.7, 5: 0.1}, {0: 0.6, 1: 0.2, 2: 0.6})
    assert found["seeds"] == [0, 2]
    assert found["differences"] == pytest.approx([0.1, 0.3])
    assert statistics.difference({0: 0.5}, {1: 0.5}) is None
    one = statistics.difference({0: 0.7}, {0: 0.6, 1: 0.5})
    assert one["mean"] == pytest.approx(0.1)
    assert [one[key] for key in ("low", "high", "std", "p_t", "p_permutation")] == [None] * 5


def test_standard_deviation_is_the_samples():
    assert statistics.summarize([1.0, 2.0, 3.0])["std"] == 1.0
    one = {"n": 1, "mean": 0.7, "std": None, "min": 0.7, "max": 0.7}
    assert statistics.summarize([0.7]) == one


@pytest.mark.parametrize(
    ("sizes", "epochs", "milliseconds"),
    [((32,), 6, 200.0), ((16, 32), 6, 320.0), ((16, 24, 32), 6, 400.0), ((16, 32), 2, None)],
)
def test_step_time_is_measured_at_full_size(tmp_path, sizes, epochs, milliseconds):
    """64 images a step; 640, 400, 320, 320, 200 and 120 a second in the epochs, if not ended."""
    recipe = recipes.get("fast", progressive_sizes=sizes, epochs=6, batch_size=64)
    job = jobs.Job("r18w4", "fast", recipe)
    (run,) = grid.plan({"r18w4": job}, [0], tmp_path, tmp_path / "out")
    run.folder.mkdir()
    row = dict.fromkeys(files.HISTORY_COLUMNS, 1.0)
    speeds = [640, 400, 320, 320, 200, 120]
    rows = [row | {"epoch": e + 1, "images_per_second": s} for e, s in enumerate(speeds)]
    files.write_history(run.folder / "history.csv", rows[:epochs])
    environment = {"versions": {}, "machine": "a machine", "git_revision": None}
    config = {"arch": "r18w4", "stem": "cifar", "seed": 0, "classes": 10}
    config |= {"environment": environment}
    files.write_json(run.folder / "config.json", config)
    result = dict.fromkeys(("top1", "top5", "loss", "parameters", "minutes"), 1)
    files.write_json(run.folder / "result.json", result | {"epochs": epochs, "data": "a set"})
    found = statistics.figures(run)
    assert found["step_milliseconds"] == milliseconds
    (row,) = statistics.compare([found], "r18w4", {"r18w4": 1})
    assert row["step_milliseconds"] == milliseconds


def test_multiply_adds_of_a_published_network():
    """0.56 G are usually given for ResNet18 on 32x32 images."""
    assert multiply_adds("r18", "cifar", 100, (32, 32)) == 555_468_800


def test_multiply_adds_of_nested_layers():
    """Squeeze-and-excite has two dense layers a block, NAM none."""
    plain = multiply_adds("r18w4", "cifar", 10, (32, 32))
    layers = keras_nam.create_model("r18w4_se", 10)._flatten_layers()
    blocks = [layer for layer in layers if hasattr(layer, "fc1")]
    kernels = [kernel.shape for block in blocks for kernel in (block.fc1.kernel, block.fc2.kernel)]
    assert len(kernels) == 16
    assert multiply_adds("r18w4_se", "cifar", 10, (32, 32)) - plain == sum(map(math.prod, kernels))
    assert multiply_adds("r18w4_nam", "cifar", 10, (32, 32)) == plain


def test_multiply_adds_of_depthwise_convolutions(monkeypatch):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 1)(images)
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    model = keras.Model(images, x)
    monkeypatch.setattr(keras_nam, "create_model", lambda *_, **__: model)
    assert multiply_adds("any", "cifar", 10, (32, 32)) == 8 * 8 * 3 * 6 + 4 * 4 * 9 * 6
