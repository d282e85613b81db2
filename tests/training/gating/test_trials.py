"""Gates replaced and channels removed, against networks that are changed by hand."""

import numpy as np
import pytest
import tensorflow as tf

import keras_nam
from keras_nam.gates import gates_of
from tests.support.networks.gated_networks import IMAGES, network
from training.gating import trials
from training.gating.trials import Score, replaced
from training.gating.values import named_gates

LABELS = np.random.default_rng(3).integers(0, 10, len(IMAGES))
STREAM = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5)
SCORE = Score(0.5, 1.0, np.ones(4))


def assert_equal(score, model):
    """Compares a score with a model's; in float32, folded against not."""
    expected = Score.of(model, STREAM)
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_array_equal(score.hits, expected.hits)
    assert score.top1 == pytest.approx(expected.top1, abs=1e-7)


def test_half_is_a_network_whose_gammas_are_zero():
    model = network("nam_full")
    score = replaced(model, dict.fromkeys(named_gates(model), 0.5), STREAM)
    assert score.loss != pytest.approx(Score.of(model, STREAM).loss, rel=1e-3)
    for gate in gates_of(model):
        gate.gamma.assign(np.zeros(gate.gamma.shape))
    assert_equal(score, model)


def test_constants_scale_the_normalization_before():
    model = network()
    rng = np.random.default_rng(5)
    factors = {
        name: rng.uniform(0.1, 0.9, gate.gamma.shape[0])
        for name, gate in named_gates(model).items()
    }
    score = replaced(model, factors, STREAM)
    for name, gate in named_gates(model).items():
        gate.gamma.assign(np.zeros(gate.gamma.shape))  # a gate of 0.5
        normalization = model.get_layer(name.replace("nam", "bn"))
        for variable in (normalization.gamma, normalization.beta):
            variable.assign(variable * 2 * factors[name])
    assert_equal(score, model)


def test_the_replacements_are_the_means(monkeypatch):
    asked, steps = [], []
    monkeypatch.setattr(trials, "replaced", lambda *args: (asked.append(args[1]), SCORE)[1])
    means = {"a": np.array([0.4, 0.6, 0.8]), "b": np.array([0.5, 0.3])}
    rows = trials.replacements(None, means, STREAM, SCORE, lambda: steps.append(1))
    assert [row["by"] for row in rows] == ["unit mean", "layer mean", "0.5"]
    by_unit, by_layer, half = asked
    assert by_unit is means
    assert by_layer == pytest.approx({"a": 0.6, "b": 0.4})
    assert half == {"a": 0.5, "b": 0.5}
    assert len(steps) == 3


def test_the_removed_channels(monkeypatch):
    """The rows have the scores of slimmed networks, and the paired change between them."""
    monkeypatch.setattr(trials, "SHARES", (0.5,))
    model, steps = network(), []
    trained = Score.of(model, STREAM)
    (row,) = trials.slimmings(model, STREAM, trained, lambda: steps.append(1))
    scores = {by: Score.of(keras_nam.slim(model, 0.5, by), STREAM) for by in ("gamma", "l1")}
    for by, score in scores.items():
        assert row[by]["loss"] == pytest.approx(score.loss, rel=1e-5)
        assert row[by]["top1_change"] == score.compared_to(trained)["top1_change"]
    change = scores["gamma"].compared_to(scores["l1"])["top1_change"]
    assert row["gamma_against_l1"]["top1_change"] == change
    assert row["share"] == 0.5
    assert row["parameters"] == keras_nam.slim(model, 0.5).count_params()
    assert row["random"]["loss"] not in (row["gamma"]["loss"], row["l1"]["loss"])
    assert len(steps) == 5


def test_the_change_of_top1_is_paired():
    before = Score(0.5, 1.0, np.array([1.0, 1, 0, 0]))
    after = Score(0.75, 2.0, np.array([1.0, 1, 1, 0]))
    error = 1.96 * np.sqrt(3) / 4 / 2  # of the changes 0, 0, 1, 0
    row = after.compared_to(before)
    assert (row["top1"], row["loss"], row["top1_change"]) == (0.75, 2, 0.25)
    assert row["top1_change_95"] == pytest.approx([0.25 - error, 0.25 + error])
    assert before.compared_to(before)["top1_change_95"] == [0, 0]
    mean = Score.mean([before, after])
    assert (mean.top1, mean.loss, mean.hits.tolist()) == (0.625, 1.5, [1, 1, 0.5, 0])
