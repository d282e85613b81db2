"""The line of an epoch: its figures, its width, and the time left for the whole run."""

import io
import signal

import pytest
from rich.console import Console

from tests.support.small_run import history, run
from training import console
from training.fitting import checkpoints, progress

LOGS = {"loss": 2.3456, "top1": 0.451, "val_top1": 0.472}


@pytest.fixture
def clock(monkeypatch):
    """The seconds that pass between two steps, as a list of one number."""
    now, step = [0.0], [60.0]

    def tick():
        now[0] += step[0]
        return now[0]

    monkeypatch.setattr(progress.time, "perf_counter", tick)
    return step


def lines_of(epochs, sizes, steps=10, terminal=None, monkeypatch=None):
    if terminal:
        monkeypatch.setattr(console, "terminal", terminal)
    with progress.EpochLines(steps, sizes, images=600) as lines:
        lines.set_params({"steps": steps})
        for epoch in range(epochs):
            lines.on_epoch_begin(epoch)
            for batch in range(steps):
                lines.on_train_batch_end(batch, LOGS)
            lines.bar.refresh()  # which a thread does ten times a second
            lines.on_epoch_end(epoch, LOGS)


def test_the_time_left_counts_pixels(clock, capsys):
    """Steps of 16 pixels take a minute, so an epoch of 32 pixels takes 40 minutes."""
    lines_of(1, [16, 16, 32])
    (line,) = capsys.readouterr().out.splitlines()
    assert "left 50:00" in line
    assert "10/s" in line
    for words in ("1/3", "loss 2.346", "top-1 45.1%", "held-out 47.2%"):
        assert words in line


def test_a_line_fits_80_columns_of_a_terminal(clock, monkeypatch):
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=80, highlight=False)
    lines_of(2, [32] * 100, terminal=terminal, monkeypatch=monkeypatch)
    assert "\x1b" in out.getvalue()
    assert all(len(line) <= 80 for line in plain(out.getvalue()))
    assert any("━" in line and "held-out" in line for line in plain(out.getvalue()))


def plain(text):
    """Returns what a terminal shows, drawing by drawing."""
    from rich.text import Text

    return [Text.from_ansi(part).plain for part in text.replace("\r", "\n").split("\n")]


def test_a_pipe_gets_a_line_an_epoch(tmp_path, lean, capsys):
    run(tmp_path / "run")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert sum("held-out" in line and "top-1" in line for line in out.splitlines()) == 3


def test_a_second_ctrl_c_ends_at_once(tmp_path, lean, signal_after, monkeypatch):
    """Its first makes a checkpoint at the end of the step."""
    import os

    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda *args: [kill(*args), kill(*args)])
    signal_after(7, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    _, position, _ = checkpoints.load_newest(tmp_path / "run")
    assert (position.epochs, position.steps) == (1, 0)
    assert len(history(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "0:04"), (45.2, "0:46"), (723, "12:03"), (3900, "1:05:00")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
