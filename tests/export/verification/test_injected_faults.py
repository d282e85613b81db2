"""The verification catches injected faults and accepts good exports, all of random networks.

    FAULTS_NETWORKS=6 FAULTS_GOOD=100 FAULTS_TABLE=results/fault_injection \\
        python -m pytest -m faults tests/export/verification/test_injected_faults.py

injects each fault into 6 networks, verifies 100 good exports, and writes the table. By default it
is one network, 3 good exports, and no table.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from export.runtime.local_models import OnnxModel
from export.targets import onnx as onnx_target
from export.targets import quantization
from export.verification import trained_weights
from export.verification.classifier import classifier
from export.verification.release import Export
from export.verification.source import open_source
from export.verification.verify import STAGES, VerificationError, verify
from tests.support import injected_faults, random_run
from training.cli import FailedError, InputError
from training.runs import files, saved_model

pytestmark = [pytest.mark.slow, pytest.mark.faults]
NETWORKS = int(os.environ.get("FAULTS_NETWORKS", "1"))
GOOD = max(NETWORKS, int(os.environ.get("FAULTS_GOOD", "3")))
TABLE = os.environ.get("FAULTS_TABLE")
ARCHS = ("r18w4_nam", "r18w4", "r18w8_nam_full", "r18w4_se", "mbv2w8_nam", "r18w4_eca",
         "r50w4_nam", "r18w4_cbam", "r18w8_nam_spatial", "r18w4_bam")  # fmt: skip
# Their graphs have what every fault needs: gates, and no normalization that the converter folds.
BREAKABLE = ("r18w4_nam", "r18w8_nam", "r50w4_nam", "r18w6_nam", "r18w4_nam_full", "r34w4_nam")
OVERFLOW = "float16 overflow"
KINDS = (*injected_faults.GRAPH_FAULTS, *injected_faults.MODEL_FAULTS, OVERFLOW)
IMAGES = 64
# What catches faults beside the verification's stages.
CONVERSION, RUNTIME = "conversion", "ONNX Runtime"


class Network:
    """A network of random weights and its export.

    Args:
        folder: Path of an empty folder.
        number: Integer, the seed.
    """

    def __init__(self, folder, number):
        archs = BREAKABLE if number < NETWORKS else ARCHS
        self.arch, self.seed, self.folder = archs[number % len(archs)], number, folder
        self.source = open_source(random_run.make(folder / "run", self.arch, number))
        self.model = onnx_target.convert(self.source, opset=17)
        test = self.source.dataset.test
        self.images, self.labels = test.images[:IMAGES], test.labels[:IMAGES]

    def verify(self, model, source=None, precision="float32", weights=True):
        """Verifies an ONNX model; without `weights`, only its interface and its answers."""
        source = source or self.source
        missing = ()
        if weights and precision == "float32":
            missing = trained_weights.missing(source, onnx_target.constants(model))
        path = self.folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        export = Export(
            source, path, b"", None, precision, self.images, self.labels, missing_weights=missing
        )
        return verify(export, OnnxModel(path))

    def broken(self, kind):
        """Returns the arguments of `verify` after a fault."""
        rng = np.random.default_rng([self.seed, KINDS.index(kind)])
        if kind in injected_faults.MODEL_FAULTS:
            model, mean, std = injected_faults.MODEL_FAULTS[kind](self.source, rng)
            names = self.source.class_names
            folder = saved_model.save(model, self.folder / "broken", names, mean, std)
            classify = classifier(folder)
            source = dataclasses.replace(self.source, saved_model=folder, classify=classify)
            return {"model": onnx_target.convert(source, opset=17), "source": source}
        model = type(self.model)()
        model.CopyFrom(self.model)
        if kind == OVERFLOW:
            injected_faults.overflow(model, rng)
            model = quantization.to_float16(model, self.images.astype(np.float32))
            return {"model": model, "precision": "float16"}
        injected_faults.GRAPH_FAULTS[kind](model, rng)
        return {"model": model}

    def caught_by(self, arguments, weights=True):
        """Returns the name of the stage that fails first, or `None`."""
        try:
            self.verify(**arguments, weights=weights)
        except VerificationError as error:
            return error.stage
        except InputError:
            return RUNTIME
        return None


@pytest.fixture(scope="module")
def network(request, tmp_path_factory):
    return Network(tmp_path_factory.mktemp("network"), request.param)


@pytest.fixture(scope="module")
def report():
    """What was found; written to the folder FAULTS_TABLE at the end."""
    report = {"good": 0, "refused": [], "largest_difference_of_a_good_export": 0.0, "trials": []}
    yield report
    if TABLE:
        versions = files.environment(("tensorflow", "keras", "tf2onnx", "onnxruntime"))
        Path(TABLE).mkdir(parents=True, exist_ok=True)
        files.write_json(Path(TABLE) / "fault_injection.json", report | {"environment": versions})
        (Path(TABLE) / "fault_injection.md").write_text(markdown(report), encoding="utf-8")


@pytest.mark.parametrize("network", range(GOOD), indirect=True)
def test_a_good_export_is_accepted(network, report):
    report["good"] += 1
    try:
        values = network.verify(network.model)["values"]
    except VerificationError as error:
        why = {"arch": network.arch, "seed": network.seed, "why": str(error)}
        report["refused"].append(why)
        raise
    largest = max(
        report["largest_difference_of_a_good_export"], values["largest_absolute_difference"]
    )
    report["largest_difference_of_a_good_export"] = largest
    assert largest < 5e-5


@pytest.mark.parametrize("network", range(NETWORKS), indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_caught(network, kind, report):
    try:
        broken = network.broken(kind)
        found = network.caught_by(broken), network.caught_by(broken, weights=False)
    except FailedError:
        found = CONVERSION, CONVERSION
    trial = {"kind": kind, "arch": network.arch, "seed": network.seed}
    trial |= dict(zip(("caught_by", "caught_by_answers"), found, strict=True))
    report["trials"].append(trial)
    assert trial["caught_by"]


def test_every_stage_caught_some(report):
    """Accuracy did not: the values show such faults before."""
    if len(report["trials"]) < NETWORKS * len(KINDS):
        pytest.skip("needs all faults")
    caught = {trial["caught_by"] for trial in report["trials"]}
    assert {CONVERSION, "weights", "interface", "values"} <= caught


def markdown(report):
    """Returns the trials as a table in Markdown, one row for each kind."""
    stages = [CONVERSION, *(stage for stage in STAGES if stage != "pixels"), RUNTIME]
    lines = [
        f"| fault | injected | caught | {' | '.join(stages)} | by the answers alone |",
        "|---" * (len(stages) + 4) + "|",
    ]
    for kind in KINDS:
        trials = [trial for trial in report["trials"] if trial["kind"] == kind]
        counts = [sum(trial["caught_by"] == stage for trial in trials) or "" for stage in stages]
        caught, answers = (
            sum(trial[key] is not None for trial in trials)
            for key in ("caught_by", "caught_by_answers")
        )
        lines.append(
            "| " + " | ".join(map(str, [kind, len(trials), caught, *counts, answers])) + " |"
        )
    caught = sum(trial["caught_by"] is not None for trial in report["trials"])
    return "\n".join(
        [
            *lines,
            "",
            f"{caught} of {len(report['trials'])} faults caught; {len(report['refused'])} of "
            f"{report['good']} good exports refused. The logits of a good export differ from the "
            f"Keras model's by at most {report['largest_difference_of_a_good_export']:.1e}.",
            "",
        ]
    )
