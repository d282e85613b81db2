"""The gates' weights and values in TensorBoard."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import events
from tests.support.networks.gated_networks import IMAGES, network
from training.gating import tensorboard
from training.gating import values as gate_values

LABELS = np.arange(len(IMAGES)) % 10


def trained(callbacks, attention="nam"):
    """Trains two epochs; returns the model and its losses."""
    model = network(attention)
    model.compile(
        keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    fitted = model.fit(IMAGES, LABELS, 6, epochs=2, verbose=0, callbacks=callbacks(model))
    return model, fitted.history["loss"]


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), tf.random.uniform([]).numpy()


def test_the_gates_in_tensorboard(tmp_path):
    images = IMAGES[:10]
    model, losses = trained(lambda net: [tensorboard.Gates(tmp_path, net, images)], "nam_full")
    states = random_states()
    written = events.read(tmp_path)
    named = gate_values.named_gates(model)
    scalars = {key: group for key, (group, _) in tensorboard.SCALARS.items()}
    groups = (*scalars.values(), tensorboard.WEIGHTS, tensorboard.VALUES)
    assert set(written) == {f"{group}/{name}" for group in groups for name in named}
    assert {tuple(series) for series in written.values()} == {(1, 2)}, "epochs, as in curves.png"
    values = gate_values.value_function(model)(images)
    for (name, gate), value in zip(named.items(), values, strict=True):
        axes = (0, 3) if gate_values.units(gate) == "positions" else (0, 1, 2)
        within = written[f"{scalars['std_within_units']}/{name}"][2]
        assert within == pytest.approx(value.numpy().std(axes).mean(), rel=1e-3)
        between = written[f"{scalars['std_between_units']}/{name}"][2]
        assert between == pytest.approx(value.numpy().mean(axes).std(), rel=1e-3)
        assert written[f"{scalars['mean']}/{name}"][2] == pytest.approx(
            value.numpy().mean(), abs=1e-5
        )
        assert written[f"{tensorboard.VALUES}/{name}"][2][:, 2].sum() == tf.size(value[:8])
        assert written[f"{tensorboard.WEIGHTS}/{name}"][2][:, 2].sum() == tf.size(gate.gate_weights)

    # They change neither the training nor a random state.
    other, other_losses = trained(lambda net: [], "nam_full")
    assert states == random_states()
    assert losses == other_losses
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
