"""Gates replaced and closed, against networks that are changed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_nam.gates import gates_of
from tests.support.networks.gated_networks import IMAGES, network
from training.gating import trials as gate_trials
from training.gating.trials import Score, Trials

LABELS = np.random.default_rng(3).integers(0, 10, len(IMAGES))
STREAM = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5)


def assert_equal(score, model):
    """Compares a score with a model's; in float32, folded against not."""
    expected = Score.of(model, STREAM)
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_array_equal(score.hits, expected.hits)
    assert score.top1 == pytest.approx(expected.top1, abs=1e-7)


def scale_normalizations(model, factors):
    """Multiplies the outputs of the normalization before each channel gate."""
    for name, factor in factors.items():
        normalization = model.get_layer(name.replace("nam", "bn"))
        for variable in (normalization.gamma, normalization.beta):
            variable.assign(variable * factor)


def test_a_closed_unit_is_zero_and_the_other_gates_as_trained():
    model = network()
    steps = []
    trials = Trials(model, STREAM, lambda: steps.append(1))
    masks = {name: np.arange(gate.gamma.shape[0]) % 3 == 1 for name, gate in trials.named.items()}
    score = trials.closed(masks)
    assert_equal(trials.closed({}), model)
    scale_normalizations(model, {name: ~mask for name, mask in masks.items()})
    assert_equal(score, model)
    assert len(steps) == 2


def test_half_is_a_network_whose_gammas_are_zero():
    model = network("nam_full")
    trials = Trials(model, STREAM)
    score = trials.replaced(dict.fromkeys(trials.named, 0.5))
    assert score.loss != pytest.approx(Score.of(model, STREAM).loss, rel=1e-3)
    assert_equal(trials.closed({}), model)
    for gate in gates_of(model):
        gate.gamma.assign(np.zeros(gate.gamma.shape))
    assert_equal(score, model)


def test_constants_scale_the_normalization_before():
    model = network()
    trials = Trials(model, STREAM)
    rng = np.random.default_rng(5)
    factors = {
        name: rng.uniform(0.1, 0.9, gate.gamma.shape[0]) for name, gate in trials.named.items()
    }
    score = trials.replaced(factors)
    for gate in gates_of(model):
        gate.gamma.assign(np.zeros(gate.gamma.shape))  # a gate of 0.5
    scale_normalizations(model, {name: 2 * factor for name, factor in factors.items()})
    assert_equal(score, model)


def test_closed_positions_are_zero():
    model = network("nam_spatial")
    trials = Trials(model, STREAM)
    name = "stage2_block1_nam_spatial"
    mask = np.zeros(64, bool)
    mask[[1, 10]] = True  # of a map of 8x8: row 0, column 1, and row 1, column 2
    trials.closed({name: mask})
    layer = trials.folded.get_layer(name)
    outputs = keras.Model(trials.folded.input, layer.output)(IMAGES).numpy()
    zero = (outputs == 0).all((0, 3))
    assert np.argwhere(zero).tolist() == [[0, 1], [1, 2]]


SCORE = Score(0.5, 1.0, np.ones(4))


@pytest.fixture(scope="module")
def recorded():
    """A `Trials` that keeps what it is asked for in `asked`, and returns one score."""
    trials = Trials(network("nam_full"), STREAM)
    trials.asked = []
    trials.replaced = trials.closed = lambda settings: (trials.asked.append(settings), SCORE)[1]
    return trials


def test_the_replacements_are_the_means(recorded):
    recorded.asked.clear()
    means = {"a": np.array([0.4, 0.6, 0.8]), "b": np.array([0.5, 0.3])}
    rows = gate_trials.replacements(recorded, means, SCORE)
    assert [row["by"] for row in rows] == ["unit mean", "layer mean", "0.5"]
    by_unit, by_layer, half = recorded.asked
    assert by_unit is means
    assert by_layer == pytest.approx({"a": 0.6, "b": 0.4})
    assert half == {"a": 0.5, "b": 0.5}


def test_which_units_are_pruned(recorded):
    recorded.asked.clear()
    rows = gate_trials.prunings(recorded, SCORE)
    shares = list(gate_trials.SHARES)
    expected = [(kind, share) for kind in ("channels", "positions") for share in shares]
    assert [(row["units"], row["share"]) for row in rows] == expected
    name = "stage1_block1_nam_full_channel"
    sizes = np.abs(np.array(recorded.named[name].gamma))
    smallest, *draws, largest = [masks[name] for masks in recorded.asked[5:10]]  # at 30%
    assert all(mask.sum() == round(0.3 * 16) for mask in (smallest, *draws, largest))
    assert sizes[smallest].max() < sizes[~smallest].min()
    assert sizes[largest].min() > sizes[~largest].max()
    assert len({tuple(draw) for draw in draws}) == 3
    spatial = {name for name in recorded.named if "spatial" in name}
    assert all(set(masks) == spatial for masks in recorded.asked[15:])
    assert recorded.count == 3 + len(recorded.asked)


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
