"""The verification catches injected faults, and lets good exports pass: a sample of the proof."""

import json

import pytest

from export import fault_injection, graph_faults, model_faults, verify
from training.cli import FailedError, InputError


@pytest.mark.slow
def test_every_kind_of_fault_is_caught(tmp_path, capsys):
    fault_injection.main(["--good", "3", "--each", "1", "--output", str(tmp_path)])
    report = json.loads((tmp_path / "fault_injection.json").read_text())
    kinds = {*graph_faults.FAULTS, *model_faults.FAULTS, "float16 overflow"}
    assert {trial["kind"] for trial in report["trials"]} == kinds
    assert report["missed"] == report["refused"] == []
    assert report["largest_difference_of_a_good_export"] < 5e-5
    assert (tmp_path / "fault_injection.md").read_text() in capsys.readouterr().out
    # Each stage, and the conversion, was the first to catch one of them.
    stages = {trial["caught_by"] for trial in report["trials"]}
    assert {"conversion", "weights", "interface", "values"} <= stages


@pytest.mark.slow
def test_a_fault_that_passes_is_said(tmp_path, monkeypatch):
    """With a verification that sees nothing, every fault passes, and the command fails."""
    nothing = {"largest_absolute_difference": 0.0}
    monkeypatch.setattr(verify.Check, "run", lambda check: {"values": nothing})
    monkeypatch.setattr(graph_faults, "FAULTS", {"dead": graph_faults.dead_channel})
    monkeypatch.setattr(model_faults, "FAULTS", {"stale": model_faults.stale})
    with pytest.raises(FailedError, match=r"2 of 3 faults passed"):
        fault_injection.main(["--good", "1", "--each", "1", "--output", str(tmp_path)])


def test_more_faults_than_networks(tmp_path):
    with pytest.raises(InputError, match="--each 5: expected 1 to --good 3"):
        fault_injection.main(["--good", "3", "--each", "5", "--output", str(tmp_path)])
