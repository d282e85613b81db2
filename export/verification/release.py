"""Verifies an exported file, reports, and gives the file its name.

A file gets its name, such as `model.onnx`, only after it passes the verification. One that fails
is kept as `model.unverified.onnx`, and an earlier good file becomes `model.previous.onnx`.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.verification.source import Source
from export.verification.verify import VerificationError, verify
from training import console
from training.cli import InputError
from training.runs import files

PACKAGES = ("tensorflow", "keras", "numpy", "tf2onnx", "onnx", "onnxruntime", "onnxruntime-gpu",
            "ai-edge-litert")  # fmt: skip
# What the files that share a `preprocessing.json` must have in common.
SHARED = ("height", "width", "crop_fraction", "class_names_sha256")
VERDICTS = {True: "passed", False: "FAILED", None: "not checked"}


@dataclass(frozen=True)
class Export:
    """A converted model that is to be verified and released.

    Attributes:
        source: The `Source` that it must equal.
        path: Path that the file gets if it passes, such as `onnx/model.onnx`.
        content: The file's bytes; a SavedModel, which is a folder, has none.
        open_file: Callable, path to the model, as `verify` takes it, and a dictionary of facts
            for the report, such as the provider.
        precision: A key of `limits.LIMITS`, which has the tolerances.
        images: uint8 [N, H, W, 3], an array or `store.Images`, or `Samples`, that it is verified
            on.
        labels: Integer array [N], or `None`: then the accuracy is not checked.
        missing_weights: Names of the trained weights that it does not hold; `None` if that cannot
            be known.
        facts: Dictionary, what else the report has of the file.
        companions: Dictionary name -> text, of files beside it; `None` if none of that name may
            be there, unless another released file has it.
        preprocessing: Dictionary, the content of `preprocessing.json`, without hashes; `None` for
            a file that takes no pictures.
        judges_pixels: Whether the top-1 of a model of no run must be better than chance.
    """

    source: Source
    path: Path
    content: bytes | None
    open_file: Callable
    precision: str
    images: Any
    labels: np.ndarray | None
    missing_weights: list | None = None
    facts: dict = field(default_factory=dict)
    companions: dict = field(default_factory=dict)
    preprocessing: dict | None = None
    judges_pixels: bool = True


def verify_and_release(export):
    """Writes the file of an `Export`, verifies what was written, names it, and reports.

    The file is verified in a temporary folder and then copied. So two exports into one folder at
    once do not see each other's files, and the report always belongs to the file beside it.

    Returns:
        The report, as it is in the JSON file.

    Raises:
        VerificationError: If a stage failed; the file and the report are kept.
        InputError: See `released_beside`; then nothing is changed.
        OSError: If the disk is full; then nothing new is left.
    """
    path = export.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        candidate_path = Path(folder) / path.name
        candidate_path.write_bytes(export.content)
        for name, text in export.companions.items():
            if text is not None:
                candidate_path.with_name(name).write_text(text, encoding="utf-8")
        report, failure = examine(export, candidate_path)
        report |= {
            "file": _aside(path, "unverified").name if failure else path.name,
            "sha256": files.sha256(candidate_path),
            "bytes": candidate_path.stat().st_size,
        }
        with files.lock(path.with_name(".lock")):
            _publish(export, candidate_path, failure is None, report["sha256"])
            files.write_json(report_path(path), report)
    show(report)
    if failure:
        raise failure
    return report


def examine(export, candidate_path):
    """Verifies what was written; returns the report, and the `VerificationError` or `None`."""
    started, failure = time.perf_counter(), None
    candidate, more = export.open_file(candidate_path)
    with console.progress("verifying", 2 * len(export.images)) as advance:
        try:
            stages = verify(export, candidate, advance)
        except VerificationError as error:
            failure, stages = error, error.report
    report = {
        "verdict": "not verified" if failure else "verified",
        "file": candidate_path.name,
        "precision": export.precision,
        "truth": export.source.truth,
        "source": export.source.name,
        "notes": export.source.notes,
        "data": export.source.data_name,
        **export.source.identity,
        "stages": stages,
        **export.facts,
        **more,
        "environment": files.environment(PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 2),
    }
    return report, failure


def report_path(path):
    """Returns the report's path: `model.int8.onnx` has `verification.int8.json`."""
    return _named("verification", path, path.stem)


def description_path(path, precision):
    """Returns the path of what the precisions of a model share: `preprocessing.json`.

    `cats.onnx` and `cats.int8.onnx` have `preprocessing.cats.json`.
    """
    return _named("preprocessing", path, path.stem.removesuffix(f".{precision}"))


def _named(word, path, stem):
    variant = stem.removeprefix("model")
    dot = "" if stem.startswith("model") else "."
    return path.with_name(f"{word}{dot}{variant}.json")


def released_beside(path, precision, description):
    """Returns the names of the other released files with the same `preprocessing.json`.

    Args:
        path: Path of the file that is to be released.
        precision: Its precision.
        description: What it has to say there; `None` for a file that takes no pictures.

    Raises:
        InputError: If its rule or class names differ from theirs.
    """
    shared = description_path(path, precision)
    known = _known(shared)
    others = [
        name
        for name in known.get("sha256", {})
        if name != path.name
        and (path.parent / name).exists()
        and not Path(name).stem.endswith((".unverified", ".previous"))
    ]
    differing = [
        "other class names"
        if key == "class_names_sha256"
        else f"{key} {description.get(key)} instead of {known.get(key)}"
        for key in SHARED
        if others and description is not None and description.get(key) != known.get(key)
    ]
    if differing:
        raise InputError(
            f"{path}: expected the size, crop fraction and class names of {', '.join(others)}, "
            f"because {shared.name} is for all of them; received {', '.join(differing)}. Give the "
            "same options or another folder, or delete the other files."
        )
    return others


def _known(path):
    """Returns the content of a `preprocessing.json`, or {} if it is damaged or another tool's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _publish(export, candidate_path, verified, digest):
    """Copies the files to their places by renames, the model as it was verified.

    What describes the verified file stays as it is if the verification failed.
    """

    def copy(temporary):
        shutil.copyfile(candidate_path, temporary)
        if files.sha256(temporary) != digest:
            raise OSError(errno.EIO, "the copy differs from the verified file", str(temporary))

    path = export.path
    unverified = _aside(path, "unverified")
    if not verified:
        files.write_atomically(unverified, copy)
        if path.exists():
            os.replace(path, _aside(path, "previous"))
        return
    # Checked again: another export may have ended since.
    others = released_beside(path, export.precision, export.preprocessing)
    for name, text in export.companions.items():
        companion = path.with_name(name)
        if text is None and not others and companion.is_file():
            known = _known(description_path(path, export.precision))
            if known.get("class_names_sha256") == files.sha256(companion):  # of an earlier export
                companion.unlink()
        elif text is not None:
            copied = partial(shutil.copyfile, candidate_path.with_name(name))
            files.write_atomically(companion, copied)
    files.write_atomically(path, copy)
    unverified.unlink(missing_ok=True)
    if export.preprocessing is not None:
        hashes = {name: files.sha256(path.parent / name) for name in sorted([*others, path.name])}
        description = {**export.preprocessing, "sha256": hashes}
        files.write_json(description_path(path, export.precision), description)


def _aside(path, word):
    return path.with_name(f"{path.stem}.{word}{path.suffix}")


def show(report):
    """Prints a report: a table of its numbers, and lines on the file."""
    rows = []
    for stage, numbers in report["stages"].items():
        limits = numbers.get("limits", {})
        rows.append((stage, "", VERDICTS[numbers["passed"]], ""))
        for key, value in numbers.items():
            if key not in ("passed", "limits"):
                rows.append(("", key.replace("_", " "), _text(value), _text(limits.get(key, ""))))
        rows.append(None)
    header = ("stage", "number", "found", "limit")
    title = f"{report['file']}, {report['precision']}: {report['verdict']}"
    console.table(header, rows, words=header[:2], title=title)
    of_file = ("provider", "nodes", "opset", "operators", "transposes", "bytes", "seconds")
    lines = [f"{key}: {_text(report[key])}" for key in of_file if key in report]
    console.say("\n".join([*lines, *report["notes"]]))


def _text(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(number)}" for key, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
