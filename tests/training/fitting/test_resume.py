"""A training of a small network again: the same history with one seed, and after interruptions."""

import json
import os
import signal

import pytest

from tests.support import small_network
from tests.support.small_run import history, run
from training.cli import FailedError, Terminated
from training.fitting import callbacks, checkpoints, devices, network
from training.runs import files as runs


@pytest.fixture(scope="module", autouse=True)
def of_a_small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "initial_model", small_network.initial_model)
        yield


@pytest.fixture(scope="module")
def finished(of_a_small_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


def test_one_seed_gives_one_history(finished, tmp_path):
    assert run(tmp_path / "again") == history(finished)


def test_another_seed_gives_another(finished, tmp_path):
    assert run(tmp_path / "other", "--seed", "1") != history(finished)


@pytest.mark.parametrize("step", [5, 8])
def test_interrupted_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, step):
    """Ctrl-C in the midst of the second epoch, and in its last step."""
    interrupt_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert not runs.is_finished(tmp_path / "run")
    assert len(history(tmp_path / "run")) == 1
    monkeypatch.undo()
    assert run(tmp_path / "run", "--resume") == history(finished)


@pytest.mark.parametrize(("step", "position"), [(2, (0, 2)), (7, (1, 3)), (8, (2, 0))])
def test_terminated_and_resumed_equals_uninterrupted(
    finished, tmp_path, monkeypatch, step, position
):
    """SIGTERM in the first epoch, in the second, and in that one's last step."""
    interrupt_at(monkeypatch, step, terminate)
    with pytest.raises(Terminated, match="epoch {}, step {}: --resume".format(*position)):
        run(tmp_path / "run")
    monkeypatch.undo()
    assert run(tmp_path / "run", "--resume") == history(finished)


def test_checkpoints_between_the_epochs(finished, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", "--checkpoint-every", "2")
    _, position, _ = checkpoints.load_newest(tmp_path / "run")
    assert (position.epochs, position.steps) == (1, 2)
    assert position.metrics[1] == 2 * 64  # images that the mean of the losses counts
    monkeypatch.undo()
    assert run(tmp_path / "run", "--resume") == history(finished)


def test_several_steps_a_call_change_nothing(finished, tmp_path, monkeypatch):
    two = {"jit_compile": False, "steps_per_execution": 2}
    monkeypatch.setattr(devices, "execution", lambda steps: two)
    assert run(tmp_path / "run") == history(finished)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt_at(monkeypatch, step, how=interrupt):
    original = callbacks.TimeEstimate.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if int(self.model.optimizer.iterations) == step:
            how()

    monkeypatch.setattr(callbacks.TimeEstimate, "on_train_batch_end", on_train_batch_end)


def test_damaged_checkpoint_falls_back_and_says_so(finished, tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, 9)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    monkeypatch.undo()
    last = tmp_path / "run" / "last.keras"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(content)
    assert run(tmp_path / "run", "--resume") == history(finished)
    output = capsys.readouterr().out
    assert "last.keras is damaged" in output
    assert "epochs 2–3" in output


def test_nan_stops_with_a_message(tmp_path):
    with pytest.raises(FailedError, match=r"The loss became (nan|inf).*--learning-rate"):
        run(tmp_path / "run", "--learning-rate", "1e30")
    assert not runs.is_finished(tmp_path / "run")


def test_a_validation_split_is_held_out_of_the_training_images(tmp_path):
    run(tmp_path / "run", "--validation-split", "0.1", "--epochs", "1")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["held_out"] == "200 validation images"
    assert config["training_images"] == 1800
    assert json.loads((tmp_path / "run" / "result.json").read_text())["split"].startswith("test")
