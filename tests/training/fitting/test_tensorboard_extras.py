"""What TensorBoard is told of the gates, and that the training does not notice."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.gated_networks import IMAGES, network
from training.fitting.callbacks import TensorBoardExtras
from training.gating import values as gate_values

GRID = np.zeros((1, 8, 8, 3), "float32")
LABELS = np.arange(len(IMAGES)) % 10


def trained(folder, gate_images, attention="nam"):
    """Trains two epochs; returns the model and its losses."""
    model = network(attention)
    model.compile(
        keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    extras = TensorBoardExtras(folder, model, GRID, gate_images)
    fitted = model.fit(IMAGES, LABELS, 6, epochs=2, verbose=0, callbacks=[extras])
    return model, fitted.history["loss"]


def events(folder):
    return EventAccumulator(str(folder / "train"), size_guidance={"tensors": 0}).Reload()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A training whose gates are shown: its folder, model, losses, and random states after it."""
    folder = tmp_path_factory.mktemp("shown")
    model, losses = trained(folder, IMAGES[:10], "nam_full")
    return folder, model, losses, random_states()


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), tf.random.uniform([]).numpy()


def test_values_of_each_epoch(shown):
    folder, model, _, _ = shown
    written = events(folder)
    tags = set(written.Tags()["tensors"])
    named = gate_values.named_gates(model)
    expected = {"gate_weights", "gate_values", "gate_mean", "gate_std_between", "gate_std_within"}
    assert tags == {"augmented images"} | {f"{kind}/{n}" for kind in expected for n in named}
    values = gate_values.value_function(model)(IMAGES[:10])
    for (name, gate), value in zip(named.items(), values, strict=True):
        axes = (0, 3) if gate_values.units(gate) == "positions" else (0, 1, 2)
        of_epochs = written.Tensors(f"gate_std_within/{name}")
        assert [event.step for event in of_epochs] == [0, 1]
        last = tf.make_ndarray(of_epochs[-1].tensor_proto)
        assert last == pytest.approx(value.numpy().std(axes).mean(), rel=1e-3)
        mean = tf.make_ndarray(written.Tensors(f"gate_mean/{name}")[-1].tensor_proto)
        assert mean == pytest.approx(value.numpy().mean(), abs=1e-5)
        histogram = tf.make_ndarray(written.Tensors(f"gate_values/{name}")[-1].tensor_proto)
        assert histogram[:, 2].sum() == tf.size(value[:8])


def test_training_does_not_notice(tmp_path, shown):
    _, model, losses, states = shown
    other, other_losses = trained(tmp_path, None, "nam_full")
    assert states == random_states()
    assert losses == other_losses
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("attention", "gate_images"), [("se", IMAGES[:4]), ("nam", None)])
def test_nothing_to_show(tmp_path, attention, gate_images):
    model, _ = trained(tmp_path, gate_images, attention)
    tags = set(events(tmp_path).Tags()["tensors"])
    weights = {f"gate_weights/{name}" for name in gate_values.named_gates(model)}
    assert tags == {"augmented images"} | weights
