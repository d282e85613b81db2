"""What watches a training: times, the best epoch, an evaluation that is NaN, in any order."""

import contextlib
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_nam
from training import evaluate, train
from training.cli import FailedError, InputError
from training.data import streams
from training.fitting import callbacks, checkpoints, network
from training.runs import files

ARGUMENTS = ["--arch", "r18w8_nam", "--recipe", "fast", "--dataset", "synthetic", "--quiet"]
ARGUMENTS += ["--batch-size", "64", "--steps-per-epoch", "4", "--epochs", "3", "--strategy", "none"]
TIMES = ("seconds", "images_per_second")


@keras.saving.register_keras_serializable("tests")
class NotFiniteInInference(keras.layers.Layer):
    """As a normalization whose statistics have not settled, in float16: NaN for some images."""

    def call(self, x, training=False):
        bright = keras.ops.mean(x, (1, 2, 3), keepdims=True) > 0
        return x if training else keras.ops.where(bright, math.nan, x)


def small_network(job, classes, *more):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=4, use_bias=False)(image)
    x = keras_nam.BatchNormalization()(x)
    for layer in more:
        x = layer(x)
    x = keras_nam.NAMChannelAttention()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(image, keras.layers.Dense(classes)(x), name="small")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network that is traced in a second."""
    monkeypatch.setattr(network, "initial_model", small_network)


@pytest.fixture
def not_finite(monkeypatch):
    """That network with an evaluation that is NaN, whatever it has learned."""
    monkeypatch.setattr(
        network,
        "initial_model",
        lambda job, classes: small_network(job, classes, NotFiniteInInference()),
    )


def run(folder, *more):
    train.main([*ARGUMENTS, "--run-dir", str(folder), *more])


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{path} is no JSON: {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def history(folder):
    rows = files.read_history(folder / "history.csv")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def assert_equal_weights(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, two)


@contextlib.contextmanager
def interrupted_before(epoch):
    """Expects Ctrl-C before an epoch, counted from 0, and sends it."""
    begin = callbacks.TimeEstimate.on_epoch_begin

    def interrupt(self, number, logs=None):
        if number == epoch:
            raise KeyboardInterrupt
        begin(self, number, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.TimeEstimate, "on_epoch_begin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield


class Clock(keras.callbacks.Callback):
    """A clock by which a step takes 2 s, a batch of the evaluation 1 s and all else nothing."""

    now = 100.0

    def on_train_batch_end(self, batch, logs=None):
        self.now += 2

    def on_test_batch_end(self, batch, logs=None):
        self.now += 1


@pytest.mark.parametrize("before", [0.0, 5.0])
def test_times_are_those_of_the_clock(tmp_path, monkeypatch, before):
    clock = Clock()
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock.now)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names = {"top1": 1, "top5": 5}
    metrics = [keras.metrics.SparseTopKCategoricalAccuracy(k, k_) for k_, k in names.items()]
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    x, y = np.ones((16, 2)), np.arange(16) % 6
    recorded = callbacks.History(tmp_path, [], len(x), lambda step: 0.5 * step, before)
    model.fit(
        x, y, 4, epochs=2, verbose=0, validation_data=(x[:8], y[:8]), callbacks=[clock, recorded]
    )
    first, second = files.read_history(tmp_path / "history.csv")
    assert (first["seconds"], second["seconds"]) == (before + 4 * 2 + 2, 4 * 2 + 2)
    assert second["images_per_second"] == 16 / 8
    assert first["images_per_second"] == pytest.approx(16 / (8 + before), rel=1e-6)
    assert (first["learning_rate"], second["learning_rate"]) == (0.5 * 4, 0.5 * 8)


@pytest.fixture
def evaluations(monkeypatch):
    """A function: gives each evaluation in turn its loss and top-1, and returns the weights then.

    What is returned is filled while the training goes on.
    """

    def given(*figures):
        figures, seen = list(figures), []
        original = keras.Model.evaluate

        def evaluate(self, *args, **kwargs):
            seen.append(self.get_weights())
            measured = original(self, *args, **kwargs)
            return {**measured, **dict(zip(("loss", "top1"), figures.pop(0), strict=True))}

        monkeypatch.setattr(keras.Model, "evaluate", evaluate)
        return seen

    return given


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([(1, 0.3), (1, 0.7), (1, 0.5)], 1),
        ([(1, 0.7), (1, 0.3), (1, 0.7)], 2),
        ([(math.nan, 0.9), (1, 0.5), (1, 0.4)], 1),
        ([(1, 0.5), (math.inf, 0.9), (1, math.nan)], 0),
        ([(math.nan, 0.5)] * 3, 2),
    ],
)
def test_best_is_the_epoch_of_the_highest_validation_top1(tmp_path, evaluations, figures, best):
    seen = evaluations(*figures)
    run(tmp_path / "run", "--validation-split", "0.1")
    kept = weights(tmp_path / "run" / "best.keras")
    assert_equal_weights(kept, seen[best])
    test = streams.load("synthetic").test
    mean, std = (
        files.read_json(tmp_path / "run" / "config.json")["recipe_settings"][key]
        for key in ("mean", "std")
    )
    model = keras.saving.load_model(tmp_path / "run" / "best.keras")
    logits = model.predict(streams.normalize(test.images, mean, std), verbose=0)
    top1 = strict_json(tmp_path / "run" / "result.json")["top1"]
    assert top1 == pytest.approx(np.mean(logits.argmax(-1) == test.labels), abs=1e-6)


def test_best_of_the_epochs_before_an_interruption_is_kept(tmp_path, evaluations):
    seen = evaluations((1, 0.3), (1, 0.7), (1, 0.5))
    arguments = ["--validation-split", "0.1"]
    with interrupted_before(2):
        run(tmp_path / "run", *arguments)
    run(tmp_path / "run", *arguments, "--resume")
    assert [row["val_top1"] for row in history(tmp_path / "run")] == [0.3, 0.7, 0.5]
    assert_equal_weights(weights(tmp_path / "run" / "best.keras"), seen[1])


def test_without_a_validation_split_the_last_epoch_is_the_best(tmp_path, evaluations):
    seen = evaluations((1, 0.7), (1, 0.3), (1, 0.2))
    run(tmp_path / "run")
    assert_equal_weights(weights(tmp_path / "run" / "best.keras"), seen[2])
    assert_equal_weights(weights(tmp_path / "run" / "last.keras"), seen[2])


def test_callbacks_in_the_reverse_order_do_the_same(tmp_path, monkeypatch):
    arguments = ["--validation-split", "0.1", "--checkpoint-every", "3"]
    run(tmp_path / "run", *arguments)
    fit = keras.Model.fit

    def reversed_fit(self, *args, callbacks, **kwargs):
        return fit(self, *args, callbacks=callbacks[::-1], **kwargs)

    monkeypatch.setattr(keras.Model, "fit", reversed_fit)
    run(tmp_path / "reversed", *arguments)
    assert history(tmp_path / "reversed") == history(tmp_path / "run")
    assert len(history(tmp_path / "run")) == 3
    for name in ("best.keras", "last.keras", "previous.keras"):
        assert_equal_weights(*(weights(tmp_path / run / name) for run in ("run", "reversed")))


def test_an_evaluation_that_is_not_finite_is_a_warning_and_in_the_end_status_1(
    tmp_path, not_finite, capsys
):
    folder = tmp_path / "run"
    with pytest.raises(FailedError, match=r"loss on the test set.*null.*--precision"):
        run(folder)
    output = capsys.readouterr().out
    for epoch in (1, 2, 3):
        assert f"warning: the evaluation after epoch {epoch} is not finite" in output
    assert [math.isnan(row["val_loss"]) for row in history(folder)] == [True] * 3
    assert all(
        np.isfinite([row["loss"], row["seconds"]]).all()
        for row in files.read_history(folder / "history.csv")
    )
    assert strict_json(folder / "result.json")["loss"] is None
    strict_json(folder / "config.json")
    assert (folder / "curves.png").stat().st_size > 0
    assert tf.saved_model.contains_saved_model(folder / "saved_model" / "1")

    with pytest.raises(FailedError, match="loss on the test set"):
        run(folder, "--resume")
    assert "finished already" in capsys.readouterr().out


def test_a_training_resumes_after_an_evaluation_that_is_not_finite(tmp_path, not_finite):
    with pytest.raises(FailedError):
        run(tmp_path / "whole", "--checkpoint-every", "3")
    folder = tmp_path / "run"
    with interrupted_before(1):
        run(folder, "--checkpoint-every", "3")
    with pytest.raises(FailedError, match="test set"):
        run(folder, "--checkpoint-every", "3", "--resume")
    ours, theirs = ([row["loss"] for row in history(f)] for f in (folder, tmp_path / "whole"))
    assert ours == theirs


def test_gates_statistics_are_of_the_images_that_are_finite(tmp_path, not_finite):
    with pytest.raises(FailedError):
        run(tmp_path / "run", "--epochs", "1")
    (name,) = (
        tag
        for tag in tensorboard(tmp_path / "run").Tags()["tensors"]
        if tag.startswith("gate_values/")
    )
    (event,) = tensorboard(tmp_path / "run").Tensors(name)
    histogram = tf.make_ndarray(event.tensor_proto)
    assert np.isfinite(histogram).all()
    assert histogram[:, 2].sum() > 0
    (event,) = tensorboard(tmp_path / "run").Tensors(name.replace("values", "mean"))
    assert 0 < tf.make_ndarray(event.tensor_proto) < 1


def tensorboard(folder):
    path = folder / "tensorboard" / "train"
    return EventAccumulator(str(path), size_guidance={"tensors": 0}).Reload()


def test_evaluate_says_how_many_images_have_no_finite_logits(tmp_path, not_finite, capsys):
    with pytest.raises(FailedError):
        run(tmp_path / "run", "--epochs", "1")
    with pytest.raises(FailedError, match=r"logits of \d+ of 500 images"):
        evaluate.main([str(tmp_path / "run")])
    assert "top-1" in capsys.readouterr().out
    assert (tmp_path / "run" / "mistakes.png").stat().st_size > 0


def test_a_checkpoint_is_not_saved_with_a_loss_that_is_not_finite(tmp_path, monkeypatch):
    """Whichever callback sees it first: the sums of the metrics would be NaN when resumed."""
    monkeypatch.setattr(callbacks.StopOnNaN, "on_train_batch_end", lambda *_, **__: None)
    with pytest.raises(FailedError, match="The loss became"):
        run(tmp_path / "run", "--learning-rate", "1e30", "--checkpoint-every", "1")
    for path in (tmp_path / "run").glob("*.keras"):
        assert all(np.isfinite(weight).all() for weight in weights(path))
    _, position, _ = checkpoints.load_newest(tmp_path / "run")
    assert np.isfinite(position.metrics).all()


def test_a_best_without_a_checkpoint_is_not_overwritten(tmp_path):
    folder = tmp_path / "run"
    with interrupted_before(1):
        run(folder)
    (folder / "last.keras").write_bytes(b"PK")
    best = (folder / "best.keras").read_bytes()
    with pytest.raises(InputError, match=r"last\.keras is damaged.*best\.keras.*no optimizer"):
        run(folder, "--resume")
    assert (folder / "best.keras").read_bytes() == best
    (folder / "best.keras").unlink()
    run(folder, "--resume")
    assert len(history(folder)) == 3
