"""The trials behind `fault_injection`: good exports, broken ones, and what was caught by what."""

import dataclasses
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from export import graph_faults, model_faults, onnx_graph, quantize, random_run, trained_weights
from export.classifier import classifier
from export.local_models import OnnxModel
from export.source import open_source
from export.verify import STAGES, Check, VerificationError
from training import runs, saved_model
from training.cli import FailedError, InputError

ARCHS = ("r18w4_nam", "r18w4", "r18w8_nam_full", "r18w4_se", "mbv2w8_nam", "r18w4_eca",
         "r50w4_nam", "r18w4_cbam", "r18w8_nam_spatial", "r18w4_bam")  # fmt: skip
# Those whose graph has what every fault needs: gates, and no normalization that is folded late.
BREAKABLE = ("r18w4_nam", "r18w8_nam", "r50w4_nam", "r18w6_nam", "r18w4_nam_full", "r34w4_nam")
IMAGES = 64
# What may catch a fault beside the verification's stages.
CONVERSION, RUNTIME = "conversion", "ONNX Runtime"


def run(good, each, seed, output):
    """Runs the trials, writes the tables into the folder `output`, and prints the shorter one.

    Args:
        good: Number of good exports.
        each: Number of faults of each kind.
        seed: Integer, the first network's.
        output: Path of a folder.

    Raises:
        FailedError: If a fault passed or a good export was refused.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    trials, refused, largest = [], [], 0.0
    for number in track(range(good), "exports"):
        arch = BREAKABLE[number % len(BREAKABLE)] if number < each else ARCHS[number % len(ARCHS)]
        with tempfile.TemporaryDirectory() as folder:
            exported = Exported(Path(folder), arch, seed + number)
            try:
                stages = exported.verify(exported.model)
                values = stages["values"]
                largest = max(largest, values["largest_absolute_difference"])
            except VerificationError as error:
                refused.append({"arch": arch, "seed": seed + number, "why": str(error)})
            if number < each:
                trials += exported.break_in_every_way()
    missed = [trial for trial in trials if not trial["caught_by"]]
    report = {
        "good": good,
        "refused": refused,
        "largest_difference_of_a_good_export": largest,
        "faults": len(trials),
        "missed": missed,
        "trials": trials,
        "environment": runs.environment(("tensorflow", "keras", "tf2onnx", "onnxruntime")),
    }
    runs.write_json(output / "fault_injection.json", report)
    text = markdown(report)
    runs.write_atomically(
        output / "fault_injection.md", lambda path: path.write_text(text, encoding="utf-8")
    )
    print(text)
    if missed or refused:
        raise FailedError(
            f"{len(missed)} of {len(trials)} faults passed, {len(refused)} of {good} good exports "
            f"were refused: see {output / 'fault_injection.json'}"
        )


class Exported:
    """A network of random weights with its export, and the ways to break it.

    Args:
        folder: Path of an empty folder.
        arch: String.
        seed: Integer, of the weights and of the faults.
    """

    def __init__(self, folder, arch, seed):
        self.folder, self.arch, self.seed = folder, arch, seed
        self.rng = np.random.default_rng(seed)
        self.source = open_source(random_run.make(folder / "run", arch, seed))
        self.model = onnx_graph.convert(self.source, opset=17)
        test = self.source.dataset.test
        self.images, self.labels = test.images[:IMAGES], test.labels[:IMAGES]
        self.true_logits = self.source.evaluate(self.images)

    def verify(self, model, source=None, precision="float32", weights=True):
        """Verifies an ONNX model as `to_onnx` does; without `weights`, by its answers alone."""
        source = source or self.source
        missing = ()
        if weights and precision == "float32":
            missing = trained_weights.missing(source, onnx_graph.constants(model))
        path = self.folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        check = Check(source, OnnxModel(path), precision, self.images, self.labels, missing)
        check.true_logits = self.true_logits
        return check.run()

    def break_in_every_way(self):
        """Returns a trial, a dictionary, for each kind of fault."""
        makers = {
            **{kind: partial(self._broken_graph, f) for kind, f in graph_faults.FAULTS.items()},
            **{kind: partial(self._broken_model, f) for kind, f in model_faults.FAULTS.items()},
            "float16 overflow": self._overflowing,
        }
        trials = []
        for kind, make in makers.items():
            try:
                arguments = make()
                found = [self._caught_by(arguments, weights) for weights in (True, False)]
            except FailedError:
                found = [CONVERSION] * 2
            caught = dict(zip(("caught_by", "caught_by_answers"), found, strict=True))
            trials.append({"kind": kind, "arch": self.arch, "seed": self.seed, **caught})
        return trials

    def _broken_graph(self, inject):
        model = type(self.model)()
        model.CopyFrom(self.model)
        inject(model, self.rng)
        return {"model": model}

    def _broken_model(self, inject):
        model, mean, std = inject(self.source, self.rng)
        folder = saved_model.save(model, self.folder / "broken", self.source.class_names, mean, std)
        source = dataclasses.replace(self.source, saved_model=folder, classify=classifier(folder))
        return {"model": onnx_graph.convert(source, opset=17), "source": source}

    def _overflowing(self):
        model = self._broken_graph(graph_faults.overflow)["model"]
        images = self.images.astype(np.float32)
        return {"model": quantize.to_float16(model, images), "precision": "float16"}

    def _caught_by(self, arguments, weights):
        """Returns the name of the stage that fails first, or `None`."""
        try:
            self.verify(**arguments, weights=weights)
        except VerificationError as error:
            return error.stage
        except InputError:
            return RUNTIME
        return None


def markdown(report):
    """Returns the trials as a table in Markdown, a row a kind."""
    stages = [CONVERSION, *(error.stage for error, _ in STAGES), RUNTIME]
    lines = [
        f"| fault | injected | caught | {' | '.join(stages)} | by the answers alone |",
        "|---" * (len(stages) + 4) + "|",
    ]
    for kind in dict.fromkeys(trial["kind"] for trial in report["trials"]):
        trials = [trial for trial in report["trials"] if trial["kind"] == kind]
        counts = [sum(trial["caught_by"] == stage for trial in trials) or "" for stage in stages]
        caught = sum(trial["caught_by"] is not None for trial in trials)
        answers = sum(trial["caught_by_answers"] is not None for trial in trials)
        cells = [kind, len(trials), caught, *counts, answers]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    caught = report["faults"] - len(report["missed"])
    return "\n".join(
        [
            *lines,
            "",
            f"{caught} of {report['faults']} faults caught; {len(report['refused'])} of "
            f"{report['good']} good exports refused, whose logits differ from the truth by at most "
            f"{report['largest_difference_of_a_good_export']:.1e}.",
            "",
        ]
    )
