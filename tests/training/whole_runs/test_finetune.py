"""Frozen layers, averaged weights, early stopping and the recipe `finetune`."""

import signal

import keras
import numpy as np
import pytest

import keras_nam
from keras_nam import derived_gate
from tests.support.networks import small_network
from tests.support.small_run import run
from training import jobs, recipes
from training.cli import Terminated
from training.data import datasets, streams
from training.fitting import initial, resolve
from training.fitting import job as fitting
from training.runs import files, scores

finish = fitting.finish  # before `lean` replaces it
pytestmark = pytest.mark.usefixtures("lean")

EMA = ["--ema", "0.6"]
GATE = "stage1_block1_nam"


def model_of(folder, name="last"):
    return keras.saving.load_model(folder / f"{name}.keras")


def weights_of(folder, layer, name="last"):
    return [np.array(w) for w in model_of(folder, name).get_layer(layer).get_weights()]


def same(one, two):
    return [bool(np.array_equal(a, b)) for a, b in zip(one, two, strict=True)]


def assert_same_weights(folder, other, name="last"):
    ours, theirs = (model_of(f, name).get_weights() for f in (folder, other))
    assert all(same(ours, theirs))


FROZEN = {
    "bn": lambda name: "bn" in name,
    "stages:2": lambda name: name.startswith(("stem", "stage1_", "stage2_")),
    "backbone": lambda name: True,
    "none": lambda name: False,
}


@pytest.mark.parametrize("arch", ["r18w4_nam_full", "r18w4_bam", "mbv2w8_se"])
def test_what_is_frozen(arch):
    """Never the attention, nor the classifier."""
    model = keras_nam.create_model(arch, 10)
    attention = arch.partition("_")[2]
    for what, expected in FROZEN.items():
        count = initial.freeze(model, what)
        for layer in model.layers:
            is_trained = layer.name == "logits" or (attention and layer.name.endswith(attention))
            if layer.weights:
                frozen = not is_trained and expected(layer.name)
                assert (not layer.trainable_weights) == frozen, (what, layer.name)
                count -= frozen
        assert count == 0
        assert initial.is_frozen(model) == (what != "none")


def test_a_gate_after_a_frozen_normalization(monkeypatch):
    """Its inputs' batch statistics are unknown: it computes by Keras' operations."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(1, 2, (8, 6, 6, 4)).astype("float32")
    image = keras.Input((6, 6, 4))
    normalization, gate = keras_nam.BatchNormalization(), keras_nam.NAMChannelAttention()
    model = keras.Model(image, gate(normalization(image)))
    for variable in model.variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    mean, variance = np.array(normalization.moving_mean), np.array(normalization.moving_variance)
    gamma, beta = np.array(normalization.gamma), np.array(normalization.beta)
    x = (inputs - mean) / np.sqrt(variance + normalization.epsilon) * gamma + beta
    z = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + gate.epsilon)
    w = np.array(gate.gamma) / np.array(gate.gamma).sum()
    expected = x / (1 + np.exp(-w * (z * np.array(gate.gamma) + np.array(gate.beta))))

    used = []
    derived = derived_gate.gate
    monkeypatch.setattr(derived_gate, "gate", lambda *a: used.append(1) or derived(*a))
    before = np.array(gate.moving_mean)
    normalization.trainable = False
    np.testing.assert_allclose(model(inputs, training=True), expected, rtol=1e-4, atol=1e-5)
    moved = 0.9 * before + 0.1 * x.mean((0, 1, 2))
    np.testing.assert_allclose(gate.moving_mean, moved, rtol=1e-5, atol=1e-6)
    assert not used
    normalization.trainable = True
    model(inputs, training=True)
    assert len(used) == (not derived_gate._gpus())


THAWED = ("--freeze", "backbone", "--freeze-epochs", "1")


def test_frozen_normalizations_keep_their_statistics(uninterrupted):
    folder, _ = uninterrupted("--freeze", "bn")
    first = small_network.initial_model(None, 10)
    for name, is_frozen in (("stem_bn", True), (GATE, False), ("stem_conv", False)):
        found = same(weights_of(folder, name), first.get_layer(name).get_weights())
        assert found == [is_frozen] * len(found), name


def test_freezing_ends(uninterrupted):
    """The optimizer's step, and so the learning rate, continues."""
    folder, rows = uninterrupted(*THAWED, *EMA)
    _, plain_rows = uninterrupted()
    rates, plain_rates = ([row["learning_rate"] for row in r] for r in (rows, plain_rows))
    assert rates == plain_rates
    model = model_of(folder)
    assert int(model.optimizer.iterations) == 12
    assert not initial.is_frozen(model)
    first = small_network.initial_model(None, 10)
    for name in ("stem_bn", "stem_conv"):
        assert not any(same(weights_of(folder, name), first.get_layer(name).get_weights()))


def test_adamw_begins_again_where_freezing_ends(uninterrupted):
    folder, _ = uninterrupted(*THAWED, "--optimizer", "adamw", "--epochs", "2")
    assert model_of(folder).optimizer.started == 4


@pytest.mark.slow
def test_freezing_ends_in_a_strategy(uninterrupted, tmp_path):
    _, rows = uninterrupted(*THAWED)
    mirrored = run(tmp_path / "run", *THAWED, "--strategy", "mirrored")
    for ours, theirs in zip(mirrored, rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("more", "step"),
    [
        ((*THAWED, *EMA), 6),
        *(
            pytest.param(more, step, marks=pytest.mark.slow)
            for more, step in (
                (THAWED, 4),
                ((*THAWED, *EMA), 2),
                ((*THAWED, *EMA), 4),
                ((*EMA, "--validation-split", "0.2"), 6),
                (("--freeze", "bn"), 7),
                (tuple(EMA), 8),
                ((*EMA, "--recipe", "finetune", "--batch-size", "64"), 7),
            )
        ),
    ],
)
def test_resumed_equals_uninterrupted(uninterrupted, tmp_path, signal_after, more, step):
    """Within the frozen epoch, at its end, after it; within an epoch of four steps, at its end."""
    folder, rows = uninterrupted(*more)
    signal_after(step, signal.SIGTERM)
    with pytest.raises(Terminated):
        run(tmp_path / "run", *more)
    assert run(tmp_path / "run", *more, "--resume") == rows
    for name in ("last", "best"):
        assert_same_weights(tmp_path / "run", folder, name)


def test_the_average_is_evaluated_and_kept(uninterrupted):
    """It is in best.keras; last.keras has the weights of a training without an average."""
    averaged, rows = uninterrupted(*EMA)
    plain, plain_rows = uninterrupted()
    assert_same_weights(averaged, plain)
    for ours, theirs in zip(rows, plain_rows, strict=True):
        assert ours["loss"] == theirs["loss"]
        assert ours["val_loss"] != theirs["val_loss"]
    optimizer = model_of(averaged).optimizer
    assert optimizer.ema_momentum == 0.6
    averages = [np.array(v) for v in optimizer._model_variables_moving_average]
    best = model_of(averaged, "best")
    assert all(same([np.array(v) for v in best.trainable_variables], averages))
    recipe = recipes.get("fast")
    stream = streams.evaluation_stream(datasets.load("synthetic").test, 64, recipe.mean, recipe.std)
    found = scores.evaluate(best, stream)
    assert found["top1"] == pytest.approx(rows[-1]["val_top1"], abs=1e-6)
    assert found["loss"] != pytest.approx(plain_rows[-1]["val_loss"], abs=1e-6)


def test_the_average_follows_the_weights(tmp_path):
    """`m * average + (1 - m) * weights` after each step, also of weights that were frozen."""
    steps = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(np.array(self.model.get_layer("stem_conv").kernel))

    def fit(self, *args, callbacks, **more):
        return original(self, *args, callbacks=[*callbacks, Record()], **more)

    original = keras.Model.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", fit)
        run(tmp_path / "run", "--ema", "0.8", "--epochs", "2", *THAWED)
    average = steps[0]
    for kernel in steps[1:]:
        average = 0.8 * average + 0.2 * kernel
    (kept,) = weights_of(tmp_path / "run", "stem_conv", "best")
    np.testing.assert_allclose(kept, average, rtol=1e-5, atol=1e-6)


PATIENT = ["--patience", "2", "--validation-split", "0.2", "--epochs", "9"]
PATIENT += ["--learning-rate", "1e-12"]  # so no epoch is better than the first


def test_patience_ends_a_training(uninterrupted):
    _, rows = uninterrupted(*PATIENT)
    assert [row["epoch"] for row in rows] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 8, 12])
def test_patience_counts_the_epochs_before_a_resume(tmp_path, uninterrupted, signal_after, step):
    _, rows = uninterrupted(*PATIENT)
    signal_after(step, signal.SIGTERM)
    with pytest.raises(Terminated):
        run(tmp_path / "run", *PATIENT)
    assert run(tmp_path / "run", *PATIENT, "--resume") == rows


@pytest.mark.slow
def test_the_result_has_the_number_of_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "finish", finish)
    run(tmp_path / "run", *PATIENT)
    assert files.read_json(tmp_path / "run" / "result.json")["epochs"] == 3


def test_the_recipe_finetune(tmp_path):
    """AdamW; the average spans at most a tenth of the steps, here of 8."""
    more = ["--batch-size", "64", "--epochs", "2", "--augment", "random_resized_crop"]
    rows = run(tmp_path / "run", "--recipe", "finetune", *more)
    assert np.isfinite([row["val_loss"] for row in rows]).all()
    optimizer = model_of(tmp_path / "run").optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.weight_decay == recipes.FINETUNE.weight_decay
    settings = files.read_json(tmp_path / "run" / files.CONFIG)["recipe_settings"]
    assert settings["ema"] == 0
    for steps, expected in ((100, 0.99), (10, 0.95), (1, 0.5)):
        job = jobs.Job(recipe_name="finetune", recipe=recipes.FINETUNE, steps_per_epoch=steps)
        assert resolve.average(job).recipe.ema == expected
