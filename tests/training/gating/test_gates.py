"""The command: its files, its conclusions, and what it refuses."""

import json

import numpy as np
import pytest

from tests.support.networks.gated_networks import network, run_folder
from training import gates, recipes
from training.cli import InputError
from training.data import datasets, streams
from training.gating import plots, report, trials
from training.gating import values as gate_values


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("runs") / "gated", "nam_full")


def test_the_command_leaves_its_files(run, monkeypatch, capsys):
    monkeypatch.setattr(report, "TRAINING_IMAGES", 10)
    monkeypatch.setattr(trials, "SHARES", (0.5,))
    monkeypatch.setattr(trials, "DRAWS", 1)
    means, drawn = [], []
    replacements, draw = trials.replacements, plots.gates_on_images
    monkeypatch.setattr(
        trials, "replacements", lambda *args: (means.append(args[1]), replacements(*args))[1]
    )
    monkeypatch.setattr(plots, "gates_on_images", lambda *args: (drawn.append(args), draw(*args)))
    gates.main([str(run), "--images", "40"])
    found = sorted(path.name for path in (run / "gates").iterdir())
    assert found == ["gate_maps.png", "gates.json", "gates.png"]
    findings = json.loads((run / "gates" / "gates.json").read_text())
    recipe, dataset = recipes.get("fast"), datasets.load("synthetic")
    stream = streams.evaluation_stream(dataset.test, 40, recipe.mean, recipe.std)
    expected = trials.Score.of(network("nam_full"), stream.take(1))
    assert findings["as_trained"]["top1"] == pytest.approx(expected.top1)
    assert findings["as_trained"]["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert findings["images"] == 40
    assert findings["constants"] == "means over 10 training images"
    assert [row["units"] for row in findings["layers"]] == 2 * ["channels", "positions"]
    assert [row["gamma"]["count"] for row in findings["layers"]] == [16, 256, 16, 64]
    assert [row["by"] for row in findings["replaced"]] == ["unit mean", "layer mean", "0.5"]
    assert [row["share"] for row in findings["slimmed"]] == [0.5]
    output = capsys.readouterr().out
    assert all(line in output for line in findings["verdict"])
    images = streams.normalize(dataset.train.images[:10], recipe.mean, recipe.std)
    value = gate_values.value_function(network("nam_full"))(images)[0].numpy()
    np.testing.assert_allclose(
        means[0]["stage1_block1_nam_full_channel"], value.mean((0, 1, 2)), atol=1e-5
    )
    ((images, captions, shown, _),) = drawn
    np.testing.assert_array_equal(images, dataset.test.images[:6])
    label = dataset.class_names[dataset.test.labels[0]]
    assert captions[0].startswith(f"{label}\npredicted: ")
    assert list(shown) == [row["name"] for row in findings["layers"]]
    assert shown["stage2_block1_nam_full_spatial"].shape == (6, 8, 8, 16)
    for row in findings["layers"]:  # as with the weighting "constant"
        quantiles = dict.fromkeys(row["gate"]["quantiles"], 0.5)
        row["gate"] |= {"min": 0.5, "max": 0.5, "quantiles": quantiles}
    plots.overview(findings, run / "gates" / "constant.png")


def test_spectrum():
    found = report.spectrum(np.array([1.0, -4.0, 0.001, 3.0]), np.array([0.1, 0.4, 0, 0.3]))
    assert found["sorted_sizes"] == [4, 3, 1, 0.001]
    assert found["max_over_mean"] == pytest.approx(4 / (8.001 / 4))
    assert found["share_of_top_tenth"] == pytest.approx(4 / 8.001)
    assert found["negligible"] == 1  # below 0.004
    assert found["sorted_weights"] == [0.4, 0.3, 0.1, 0]
    found = report.spectrum(np.zeros(20), np.zeros(20))
    assert (found["max_over_mean"], found["share_of_top_tenth"], found["negligible"]) == (0, 0, 0)


def change(top1, difference, half):
    ends = [difference - half, difference + half]
    return {"top1": top1, "loss": 1.0, "top1_change": difference, "top1_change_95": ends}


def test_verdict():
    tops = {"gamma": 0.6, "l1": 0.4, "random": 0.5}
    findings = {
        "images": 100,
        "as_trained": {"top1": 0.7, "loss": 1.25, "parameters": 1000},
        "replaced": [
            {"by": "unit mean", **change(0.71, 0.01, 0.02)},
            {"by": "0.5", **change(0.4, -0.3, 0.02)},
        ],
        "slimmed": [
            {
                **{"share": 0.1, "parameters": 880},
                **{order: change(top1, top1 - 0.7, 0.1) for order, top1 in tops.items()},
                "gamma_against_random": change(0.6, 0.1, 0.05),
                "gamma_against_l1": change(0.6, 0.1, 0.2),
            }
        ],
    }
    trained, by_mean, by_half, slimmed = report.verdict(findings)
    assert "70.00%, loss 1.2500, on 100" in trained
    assert "channel mean: top-1 71.00%, +1.00 points" in by_mean
    assert "-1.00 to +3.00, not significant)" in by_mean
    assert "0.5: top-1 40.00%, -30.00 points" in by_half
    assert "not significant" not in by_half
    assert "10% of the channels between convolutions removed (12% of" in slimmed
    assert "|γ| 60.00%, smallest L1 norm of the kernel 40.00%, random 50.00%" in slimmed
    assert "random: +10.00 points (95% CI +5.00 to +15.00)" in slimmed
    assert "L1: +10.00 points (95% CI -10.00 to +30.00, not significant)" in slimmed


@pytest.mark.parametrize("images", [0, 501])
def test_a_wrong_number_of_images(run, images):
    with pytest.raises(InputError, match=rf"--images {images}: expected 1 to 500"):
        gates.main([str(run), "--images", str(images)])


def test_runs_that_are_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        gates.main([str(tmp_path / "absent")])
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"best\.keras is missing"):
        gates.main([str(tmp_path)])
    plain = run_folder(tmp_path / "plain", "se")
    with pytest.raises(InputError, match=r"r18_se: expected .*NAM"):
        gates.main([str(plain)])
    assert not (plain / "gates").exists()


def test_an_output_folder_that_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match=r"\(File exists\).*--out"):
        gates.main([str(run), "--out", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "kept"
