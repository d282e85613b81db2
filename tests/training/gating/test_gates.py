"""The report on the gates: its files, its words, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.gated_networks import network, run_folder
from training import gates, recipes
from training.cli import InputError
from training.data import streams
from training.gating import plots, report
from training.gating import trials as gate_trials
from training.gating import values as gate_values
from training.gating.trials import Score

ROOT = Path(__file__).parents[3]
FILES = ["gate_maps.png", "gates.json", "gates.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("runs") / "gated")


def test_report_leaves_its_files(run, monkeypatch, capsys):
    monkeypatch.setattr(report, "TRAINING_IMAGES", 70)
    gates.main([str(run), "--images", "40"])
    assert sorted(path.name for path in (run / "gates").iterdir()) == FILES
    findings = json.loads((run / "gates" / "gates.json").read_text())
    recipe = recipes.get("fast")
    stream = streams.evaluation_stream(streams.load("synthetic").test, 40, recipe.mean, recipe.std)
    expected = Score.of(network(), stream.take(1))
    assert findings["as_trained"]["top1"] == pytest.approx(expected.top1)
    assert findings["as_trained"]["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert findings["images"] == 40
    assert findings["constants"] == "means over 70 training images"
    first, second = findings["layers"]
    assert (first["name"], second["name"]) == ("stage1_block1_nam", "stage2_block1_nam")
    assert sum(first["gate"]["histogram"]["counts"]) == 40 * 16 * 16 * 16
    assert [row["by"] for row in findings["replaced"]] == ["unit mean", "layer mean", "0.5"]
    output = capsys.readouterr().out
    assert all(line in output for line in findings["verdict"])
    assert f"top-1 {expected.top1:.2%}" in findings["verdict"][0]


def test_both_gates_of_a_layer_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "TRAINING_IMAGES", 10)
    asked, drawn = [], []
    replacements = gate_trials.replacements

    def recorded(trials, means, trained):
        asked.append(means)
        return replacements(trials, means, trained)

    monkeypatch.setattr(gate_trials, "replacements", recorded)
    monkeypatch.setattr(plots, "overview", lambda findings, path: path.touch())
    monkeypatch.setattr(
        plots, "maps", lambda images, values, path: (drawn.append(values), path.touch())
    )
    run = run_folder(tmp_path / "full", "nam_full")
    gates.main([str(run), "--images", "10", "--out", str(tmp_path / "new" / "out")])
    assert not (run / "gates").exists()
    findings = json.loads((tmp_path / "new" / "out" / "gates.json").read_text())
    assert [row["units"] for row in findings["layers"]] == 2 * ["channels", "positions"]
    assert [row["gamma"]["count"] for row in findings["layers"]][:2] == [16, 256]
    assert {row["units"] for row in findings["pruned"]} == {"channels", "positions"}
    recipe, images = recipes.get("fast"), streams.load("synthetic").train.images[:10]
    values = gate_values.value_function(network("nam_full"))(
        streams.normalize(images, recipe.mean, recipe.std)
    )
    means = asked[0]["stage1_block1_nam_full_channel"]
    np.testing.assert_allclose(means, values[0].numpy().mean((0, 1, 2)), atol=1e-5)
    (maps,) = drawn
    assert list(maps) == ["stage1_block1_nam_full_spatial", "stage2_block1_nam_full_spatial"]
    assert maps["stage2_block1_nam_full_spatial"].shape == (6, 8, 8)


def test_spectrum():
    found = report.spectrum(np.array([1.0, -4.0, 0.001, 3.0]), np.array([0.1, 0.4, 0, 0.3]))
    assert found["sorted_sizes"] == [4, 3, 1, 0.001]
    assert found["max_over_mean"] == pytest.approx(4 / (8.001 / 4))
    assert found["share_of_top_tenth"] == pytest.approx(4 / 8.001)
    assert found["negligible"] == 1  # below 0.004
    assert found["sorted_weights"] == [0.4, 0.3, 0.1, 0]


def test_spectrum_of_zeros():
    found = report.spectrum(np.zeros(20), np.zeros(20))
    assert (found["max_over_mean"], found["share_of_top_tenth"], found["negligible"]) == (0, 0, 0)


def change(top1, difference, half):
    ends = [difference - half, difference + half]
    return {"top1": top1, "loss": 1.0, "top1_change": difference, "top1_change_95": ends}


def test_verdict_says_what_the_numbers_say():
    gate = {
        "share_of_variance_between_units": 0.25,
        "std_within_units": 0.001,
        "share_near_half": 0.9,
    }
    row = {"units": "channels", "random": change(0.5, -0.2, 0.1)}
    against = {"smallest": change(0.6, -0.1, 0.1), "largest": change(0.4, -0.3, 0.1)}
    findings = {
        "images": 100,
        "as_trained": {"top1": 0.7, "loss": 1.25},
        "layers": [{"units": "channels", "gate": gate}],
        "replaced": [
            {"by": "unit mean", **change(0.71, 0.01, 0.02)},
            {"by": "0.5", **change(0.4, -0.3, 0.02)},
        ],
        "pruned": [
            {
                **row,
                **against,
                "share": share,
                "smallest_against_random": change(0.6, smallest, 0.05),
                "largest_against_random": change(0.4, -0.1, 0.05),
            }
            for share, smallest in ((0.1, 0.1), (0.3, 0.01), (0.5, -0.1))
        ],
    }
    first, spread, by_mean, by_half, ten, *_, ranking = report.verdict(findings)
    assert first == "As trained: top-1 70.00%, loss 1.2500, on 100 test images."
    assert "90.0% of the values are within 0.5 ± 0.001" in spread
    assert "25% to 25%" in spread
    assert "a constant for each channel: top-1 70.00% becomes 71.00%" in by_mean
    assert "+1.00 points, 95% interval -1.00 to +3.00: no difference shown" in by_mean
    assert "replaced by 0.5: top-1 70.00% becomes 40.00% (-30.00 points" in by_half
    assert "no difference" not in by_half
    assert "10% of each gate's channels set to 0" in ten
    assert "smallest 60.00%, random 50.00%, largest 40.00%" in ten
    assert "above that without random ones at 10% of them, below it at 50%" in ranking


@pytest.mark.parametrize("images", [0, -1, 501])
def test_number_of_images(run, images):
    with pytest.raises(InputError, match=rf"--images {images}: expected 1 to 500"):
        gates.main([str(run), "--images", str(images)])


def test_network_without_a_gate(tmp_path):
    run = run_folder(tmp_path / "plain", "se")
    with pytest.raises(
        InputError, match=r"r18_se, which has no NAM gate.*_nam, _nam_spatial, _nam_full\."
    ):
        gates.main([str(run)])
    assert not (run / "gates").exists()


def test_missing_run(tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing; is .*absent a run folder"):
        gates.main([str(tmp_path / "absent")])


def test_run_without_weights(run, tmp_path):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"best\.keras is missing"):
        gates.main([str(tmp_path)])


def test_out_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match=r"cannot be made \(File exists\).*--out"):
        gates.main([str(run), "--out", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "kept"


def test_help_imports_nothing_heavy():
    code = "import sys, training.gates as m; m.parser().format_help(); print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(process.stdout.split()) & {"tensorflow", "keras", "numpy", "matplotlib"}
