"""A training of a small network: the same history with one seed, and after interruptions."""

import os
import signal

import keras
import numpy as np
import pytest

from tests.support.small_run import history, run
from training.cli import FailedError, InputError, Terminated
from training.fitting import callbacks, checkpoints, devices
from training.runs import files

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture
def whole(uninterrupted):
    """The history of the uninterrupted training."""
    return uninterrupted()[1]


def test_another_seed_gives_another_history(whole, tmp_path):
    assert run(tmp_path / "other", "--seed", "1", "--epochs", "1")[0]["loss"] != whole[0]["loss"]


@pytest.mark.parametrize(
    ("number", "step", "more", "kept"),
    [
        (signal.SIGINT, 8, [], (2, 0)),
        (signal.SIGINT, 7, ["--checkpoint-every", "2"], (1, 3)),
        (signal.SIGTERM, 7, [], (1, 3)),
        (signal.SIGTERM, 8, [], (2, 0)),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    whole, tmp_path, signal_after, capsys, number, step, more, kept
):
    """Within an epoch of four steps, and in its last step."""
    signal_after(step, number)
    with pytest.raises((KeyboardInterrupt, Terminated)) as ended:
        run(tmp_path / "run", *more)
    message = capsys.readouterr().out if number == signal.SIGINT else str(ended.value)
    assert "--resume" in message
    assert not files.is_finished(tmp_path / "run")
    assert len(history(tmp_path / "run")) == kept[0]
    _, found, _ = checkpoints.load_newest(tmp_path / "run")
    assert (found.epochs, found.steps) == kept
    if found.steps:
        assert found.metrics[1] == found.steps * 64  # the images that the mean of the losses counts
    assert run(tmp_path / "run", *more, "--resume") == whole


def test_several_steps_a_call_change_nothing(whole, tmp_path, monkeypatch, signal_after):
    """Nor where three steps of an epoch are left, after a checkpoint of one step a call."""
    signal_after(5, signal.SIGTERM)
    with pytest.raises(Terminated):
        run(tmp_path / "run")
    two = {"jit_compile": False, "steps_per_execution": 2}
    monkeypatch.setattr(devices, "execution", lambda steps: two)
    assert run(tmp_path / "run", "--resume") == whole


def test_callbacks_in_the_reverse_order_change_nothing(whole, tmp_path, monkeypatch):
    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda self, *args, callbacks, **more: fit(self, *args, callbacks=callbacks[::-1], **more),
    )
    assert run(tmp_path / "run", "--checkpoint-every", "3") == whole


@pytest.mark.slow
def test_damaged_checkpoints(whole, tmp_path, signal_after, capsys):
    """One falls back to the one before; without it, best.keras is not overwritten."""
    folder = tmp_path / "run"
    signal_after(9, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(folder)
    content = bytearray((folder / "last.keras").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "last.keras").write_bytes(content)
    before = (folder / "previous.keras").read_bytes()
    (folder / "previous.keras").write_bytes(b"PK")
    best = (folder / "best.keras").read_bytes()
    with pytest.raises(InputError, match=r"last\.keras is damaged.*best\.keras.*no optimizer"):
        run(folder, "--resume")
    assert (folder / "best.keras").read_bytes() == best

    (folder / "previous.keras").write_bytes(before)
    assert run(folder, "--resume") == whole
    output = capsys.readouterr().out
    assert "last.keras is damaged" in output
    assert "epochs 3–3" in output

    for path in folder.glob("*.keras"):
        path.write_bytes(b"PK")
    os.remove(folder / "result.json")
    assert run(folder, "--resume") == whole
    assert "from the beginning" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_is_never_in_a_checkpoint(tmp_path, monkeypatch):
    """Whichever callback sees it first: the sums of the metrics would be NaN when resumed."""
    folder = tmp_path / "run"
    with pytest.raises(FailedError, match=r"The loss became (nan|inf).*--learning-rate"):
        run(folder, "--learning-rate", "1e30")
    assert not list(folder.glob("*.keras"))
    monkeypatch.setattr(callbacks.StopOnNaN, "on_train_batch_end", lambda *_, **__: None)
    with pytest.raises(FailedError, match="The loss became"):
        run(folder, "--learning-rate", "1e30", "--checkpoint-every", "1", "--resume")
    for path in folder.glob("*.keras"):
        checkpoints.check_weights(keras.saving.load_model(path))
    _, found, _ = checkpoints.load_newest(folder)
    assert np.isfinite(found.metrics).all()
