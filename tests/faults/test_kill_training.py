"""kill -9 at any moment of a training: nothing is half-written, and the run ends as if unharmed."""

import random

import pytest
from attempts import STEPS, Attempt, assert_equal_runs
from child import Moment
from lineage import Lineage

pytestmark = [pytest.mark.slow, pytest.mark.faults]
KILLS = 20
EVERY = 2  # steps between two checkpoints

# One training is killed at each of them, in turn.
AIMED = [
    ["open .config.writing.json"],
    ["os.rename config.json"],
    ["training.step 2", "zip.member .last.writing.keras"],
    ["training.step 2", "zip.member .last.writing.keras", "zip.member .last.writing.keras"],
    ["training.step 2", "os.rename last.keras"],
    ["training.step 2", "os.remove .last.writing.keras"],
    ["training.step 4", "open .history.writing.csv"],
    ["training.step 4", "os.rename history.csv"],
    ["training.step 4", "os.rename curves.png"],
    ["training.step 4", "open .previous.writing.keras"],
    ["training.step 4", "os.rename previous.keras"],
    ["training.step 4", "open .best.writing.keras"],
    ["training.step 4", "os.rename best.keras"],
    ["training.step 4", "os.rename last.keras"],
    ["training.step 4", "os.remove .last.writing.keras"],
    ["training.step 12", "os.rename best.keras"],
    ["training.step 12", "os.rename last.keras"],
    ["training.step 12", "os.remove .last.writing.keras"],
    ["os.mkdir saved_model/.version-1.writing/assets"],
    ["os.rename saved_model/1"],
    ["open .result.writing.json"],
    ["os.rename saved_model/1"],
    ["shutil.rmtree saved_model/.version-1.old", "os.remove saved_model", "os.remove saved_model"],
    ["os.rename result.json"],
]


def test_aimed(uninterrupted, tmp_path):
    """Between a file and its renaming, in the midst of an archive, and so on."""
    lineage = Lineage(tmp_path / "run", "--checkpoint-every", str(EVERY))
    for lines in AIMED:
        assert lineage.attempt(Moment(tuple(lines))), f"the moment did not come: {lines}"
    assert not lineage.attempt()
    assert lineage.repeated <= EVERY
    assert_equal_runs(lineage.folder, uninterrupted.folder)


def test_random(seed, uninterrupted, tmp_path):
    """Half of the moments by the clock, half by what the process does to its folder."""
    rng = random.Random(seed)
    killed = runs = 0
    while killed < KILLS:
        runs += 1
        lineage = Lineage(tmp_path / f"run{runs}", "--checkpoint-every", str(EVERY))
        while kill(rng, lineage, uninterrupted):
            killed += 1
        assert lineage.repeated <= EVERY
        assert_equal_runs(lineage.folder, uninterrupted.folder)
    print(f"{killed} of {killed} kills recovered, in {runs} runs")


def kill(rng, lineage, uninterrupted):
    """Goes on with a run until a random moment; returns whether it came before the end."""
    if rng.random() < 0.5:
        life = uninterrupted.seconds * (0.8 if lineage.trained else 1)
        return lineage.attempt(seconds=rng.uniform(0, life))
    number = rng.randint(1, lineage.events_left(uninterrupted.events, STEPS))
    delay = rng.choice([0, rng.uniform(0, 0.5)])
    print(f"{lineage.folder.name}: at event {number}, {delay:.3f} s later")
    return lineage.attempt(Moment(("",) * number, delay))


def test_without_checkpoints_between_an_epoch_is_repeated_at_most(seed, uninterrupted, tmp_path):
    rng = random.Random(seed)
    lineage = Lineage(tmp_path / "run")
    for epoch in range(1, 3):
        step = epoch * STEPS + rng.randint(1, STEPS)
        assert lineage.attempt(Moment((f"training.step {step}",)))
        assert lineage.trained == step
    assert not lineage.attempt()
    assert lineage.repeated <= STEPS
    assert_equal_runs(lineage.folder, uninterrupted.folder)


def test_a_network_of_eighteen_layers(seed, tmp_path):
    """The network itself instead of the stand-in, killed once, by the clock."""
    rng = random.Random(seed)
    more = ["--epochs", "1", "--checkpoint-every", "1"]
    reference = Attempt(tmp_path / "uninterrupted", *more, prepare=())
    assert reference.wait() == 0, reference.errors
    lineage = Lineage(tmp_path / "run", *more, prepare=())
    lineage.attempt(seconds=rng.uniform(reference.seconds / 2, reference.seconds))
    assert not lineage.attempt()
    assert lineage.repeated <= 1
    assert_equal_runs(lineage.folder, tmp_path / "uninterrupted")
