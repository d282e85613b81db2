"""`--minutes` and `--dry-run`: how long a training takes, before it begins."""

import pytest
import tensorflow as tf

from tests.support.small_run import history, run
from training.cli import InputError
from training.fitting import pace
from training.runs import files

# The small run's --epochs is replaced by the recipe's own number.
PACE = {None: 60.0, 16: 60.0, 32: 240.0}  # by the size
MINUTES = ["--epochs", "20", "--minutes"]


@pytest.fixture
def measured(monkeypatch):
    """An epoch takes a minute, or four at 32 pixels. Compiling takes half a minute a size."""

    def measure(job, dataset, placement, kinds):
        return {kind: pace.Pace(30.0, PACE[kind.size]) for kind in kinds}

    monkeypatch.setattr(pace, "measure", measure)


def test_as_many_epochs_as_fit_and_a_resumed_run_keeps_them(tmp_path, lean, measured, monkeypatch):
    folder = tmp_path / "run"
    rows = run(folder, *MINUTES, "2.5")
    assert len(rows) == 2
    assert rows == run(tmp_path / "same", "--epochs", "2")
    assert files.read_json(folder / "config.json")["recipe_settings"]["epochs"] == 2
    (folder / "result.json").unlink()
    monkeypatch.setattr(pace, "measure", None)  # not called again
    run(folder, *MINUTES, "2.5", "--resume")
    assert len(history(folder)) == 2


def test_each_image_size_has_its_own_pace(tmp_path, lean, measured):
    """Two epochs of 16 pixels and two of 32 take 11 minutes."""
    rows = run(tmp_path / "run", *MINUTES, "10.9", "--progressive-sizes", "16", "32")
    assert len(rows) == 3


def test_the_average_of_the_weights_fits_the_epochs_that_fit(tmp_path, lean, measured):
    """Two epochs of 4 steps are 8 steps, too few for any; the recipe's 20 would get 0.875."""
    more = ["--recipe", "finetune", "--augment", "random_flip"]
    run(tmp_path / "run", *more, *MINUTES, "2.5")
    settings = files.read_json(tmp_path / "run" / "config.json")["recipe_settings"]
    assert (settings["epochs"], settings["ema"]) == (2, 0)


def test_frozen_and_thawed_epochs_have_their_own_pace(tmp_path, lean, capsys):
    run(tmp_path / "run", "--dry-run", "--freeze", "backbone", "--freeze-epochs", "1")
    out = capsys.readouterr().out
    assert "An epoch with frozen layers takes" in out
    assert "An epoch takes" in out


def test_what_compiles_is_no_part_of_an_epoch(monkeypatch):
    now = iter([0, 7, 10, 26])  # the first step takes 7 s, the eight that are measured 16 s
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(now))
    assert pace._seconds(lambda: None) == (5, 2)


def test_less_than_an_epoch(tmp_path, measured):
    with pytest.raises(InputError, match=r"--minutes 0\.5: one epoch takes 1\.5 minutes"):
        run(tmp_path / "run", *MINUTES, "0.5")
    assert not (tmp_path / "run").exists()


def test_epochs_beside_minutes_are_refused(tmp_path):
    with pytest.raises(InputError, match="leave out --epochs"):
        run(tmp_path / "run", "--minutes", "5")


def test_a_dry_run_prints_settings_and_the_time_and_writes_nothing(tmp_path, lean, capsys):
    """Of two sizes, the one that one epoch has."""
    more = ["--epochs", "1", "--progressive-sizes", "16", "32"]
    assert run(tmp_path / "run", "--dry-run", *more) == []
    out = capsys.readouterr().out
    for line in ("arch: r18w8_nam", "epochs: 1", "classes: 10", f"tensorflow: {tf.__version__}"):
        assert line in out.splitlines()
    assert "class_names" not in out
    assert "Epochs: 1, in about" in out
    assert "with images of 32 pixels" in out
    assert "16 pixels" not in out
    assert not (tmp_path / "run").exists()
