"""Pairing by seeds, interruption of a comparison, its time estimate, and real trainings."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import stand_in_train
from training import recipes
from training.comparing import grid
from training.data import augment, streams
from training.fitting import network
from training.runs import files

ROOT = Path(__file__).parents[3]


def initial_weights(arch, seed):
    """Returns {layer's name: weights} of an arch as a training begins."""
    model = network.initial_model(recipes.Job(arch, seed=seed), 10)
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def test_archs_of_one_seed_share_their_initial_weights():
    plain = initial_weights("r18w4", 3)
    for arch in ("r18w4_nam", "r18w4_se", "r18w4_bam"):
        other = initial_weights(arch, 3)
        assert set(plain) < set(other)
        for name, weights in plain.items():
            for ours, theirs in zip(other[name], weights, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    again = initial_weights("r18w4", 4)
    assert not np.array_equal(again["logits"][0], plain["logits"][0])


def test_a_seed_settles_the_batches_whatever_the_global_state_is():
    """Two archs draw different numbers of weights before the first batch."""
    recipe = recipes.get("fast")
    train = streams.load("synthetic").train.take(slice(256))

    def batches(seed, state):
        keras.utils.set_random_seed(state)
        stream = streams.training_stream(
            train,
            64,
            recipe.mean,
            recipe.std,
            augment.compose(recipe.augment),
            seed=seed,
            steps=2,
        )
        return list(stream.take(4).as_numpy_iterator())

    one, other, another_seed = batches(1, 0), batches(1, 7), batches(2, 0)
    for (images, labels), (same_images, same_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)
    assert not np.array_equal(one[0][0], another_seed[0][0])
    assert not np.array_equal(one[0][1], one[2][1])


def interrupt_after(path):
    """Sends Ctrl-C to this process when a file is there, or after 30 seconds."""

    def watch():
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_an_interrupted_comparison_ends_its_trainings_and_resumes(
    tmp_path, run, monkeypatch, capsys
):
    monkeypatch.setenv("HANG", "r18w4-s1")
    begun = tmp_path / "runs" / "r18w4-s1" / "history.csv"
    interrupt_after(begun)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert begun.exists()
    assert "same command resumes" in capsys.readouterr().out
    # The interrupted training has ended: it would have slept for a minute.
    assert "KeyboardInterrupt" in begun.parent.with_name("r18w4-s1.log").read_text()
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert report["missing"] == ["r18w4-s1", "r18w4_nam-s1"]

    assert run()["missing"] == []
    started = stand_in_train.calls(tmp_path)
    assert ["--resume" in arguments for arguments in started] == [False] * 3 + [True, False]


def test_help_imports_nothing_heavy():
    code = "import sys; from training import compare; compare.parser().format_help(); "
    code += "print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(found.stdout.split())
    assert not modules & {"tensorflow", "keras", "numpy", "matplotlib", "scipy", "rich"}


def test_time_left(tmp_path):
    """Of 3 epochs each: 1 + 3 are left of 2 s each, and 3 + 3 of a variant that takes 4 s."""
    recipe = recipes.get("fast", epochs=3)
    variants = {arch: recipes.Job(arch, "fast", recipe) for arch in ("r18w4", "r18w4_nam")}
    planned = grid.plan(variants, [0, 1, 2], tmp_path, tmp_path / "out")
    assert grid.seconds_left(planned, {}, 1) is None
    epochs_of = {"r18w4-s0": (3, 2.0), "r18w4_nam-s0": (3, 4.0), "r18w4-s1": (2, 2.0)}
    for name, (count, seconds) in epochs_of.items():
        (tmp_path / name).mkdir()
        row = dict.fromkeys(files.HISTORY_COLUMNS, 1.0) | {"seconds": seconds}
        rows = [row | {"epoch": epoch + 1} for epoch in range(count)]
        files.write_history(tmp_path / name / "history.csv", rows)
        if count == 3:
            files.write_json(tmp_path / name / "result.json", {})
    assert grid.seconds_left(planned, {}, 1) == 4 * 2 + 6 * 4
    assert grid.seconds_left(planned, {}, 2) == (4 * 2 + 6 * 4) / 2
    assert grid.seconds_left(planned, {planned[-1]: "failed"}, 1) == 4 * 2 + 3 * 4


def test_time_left_of_growing_images(tmp_path):
    """Small images take less: 5 s for 16 × 16 pixels are 20 s for the 32 × 32 that are left."""
    recipe = recipes.get("fast", epochs=2, image_sizes=(16, 32))
    job = recipes.Job("r18w4", "fast", recipe)
    planned = grid.plan({"r18w4": job}, [0], tmp_path, tmp_path / "out")
    (tmp_path / "r18w4-s0").mkdir()
    row = dict.fromkeys(files.HISTORY_COLUMNS, 1.0) | {"seconds": 5.0, "epoch": 1}
    files.write_history(tmp_path / "r18w4-s0" / "history.csv", [row])
    assert grid.seconds_left(planned, {}, 1) == 20


@pytest.mark.slow
def test_real_trainings(tmp_path):
    command = [sys.executable, "training/compare.py", "--recipe", "fast", "--dataset", "synthetic"]
    command += ["--archs", "r18w4,r18w4_nam", "--seeds", "0,1", "--epochs", "1", "--jobs", "2"]
    command += ["--batch-size", "64", "--steps-per-epoch", "2"]
    command += ["--out", tmp_path / "out", "--runs-dir", tmp_path / "runs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300)
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["n"] for row in report["variants"]] == [2, 2]
    for row in report["runs"]:
        result = files.read_json(Path(row["folder"]) / "result.json")
        (last,) = files.read_history(Path(row["folder"]) / "history.csv")
        assert row["top1"] == result["top1"] == pytest.approx(last["val_top1"], abs=1e-6)
    top1 = {(row["name"], row["seed"]): row["top1"] for row in report["runs"]}
    assert report["variants"][1]["difference"]["differences"] == pytest.approx(
        [top1["r18w4_nam", seed] - top1["r18w4", seed] for seed in (0, 1)]
    )
    names = [f"{arch}-s{seed}" for seed in (0, 1) for arch in ("r18w4", "r18w4_nam")]
    assert {path.name for path in (tmp_path / "out" / "runs").iterdir()} == set(names)
