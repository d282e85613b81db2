"""From an exported model to a file that may be trusted: verified, reported, named accordingly.

A file stands under its good name only if its verification passed. One that failed is kept aside
as `<name>.unverified<suffix>`, and an earlier good file as `<name>.previous<suffix>`.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from export.verification.verify import Check, VerificationError
from training.cli import InputError
from training.runs import files

# An accuracy's loss of half a point is five images of a thousand: int8 is measured on all.
SAMPLES = {"float32": 1000, "float16": 1000, "int8": None}
CALIBRATION_IMAGES = 512
PACKAGES = ("tensorflow", "keras", "numpy", "tf2onnx", "onnx", "onnxruntime", "onnxruntime-gpu",
            "ai-edge-litert")  # fmt: skip
VERDICTS = {True: "passed", False: "FAILED", None: "not checked"}


def output_folder(source, name, asked=None):
    """Returns where an export is written: `asked`, or `name` in the run's folder."""
    if asked:
        return Path(asked)
    return (source.run.folder if source.run else source.saved_model.parent) / name


def file_name(precision, suffix):
    """Returns `model.onnx`, `model.int8.onnx` and so on."""
    return f"model.{suffix}" if precision == "float32" else f"model.{precision}.{suffix}"


def calibration_images(source, count):
    """Returns training images, float32 [count, 32, 32, 3], that no verification sees.

    Raises:
        InputError: If `count` is not from 1 to the number of training images.
    """
    train = source.dataset.train
    if count is None:
        count = min(len(train), CALIBRATION_IMAGES)
    if not 1 <= count <= len(train):
        raise InputError(f"--calibration-images {count}: expected 1 to {len(train)}")
    chosen = np.random.default_rng(0).permutation(len(train))[:count]
    return train.images[np.sort(chosen)].astype(np.float32)


def sample(source, precision, count=None):
    """Returns the test images, uint8, and labels that an export is verified on: the first ones.

    The labels are `None` if the data set's are not the classifier's.

    Raises:
        InputError: If `count` is not from 1 to the number of test images.
    """
    test = source.dataset.test
    if count is None:
        count = min(len(test), SAMPLES[precision] or len(test))
    if not 1 <= count <= len(test):
        raise InputError(f"--samples {count}: expected 1 to {len(test)}, the test images")
    return test.images[:count], None if source.no_labels else test.labels[:count]


def release(
    source,
    content,
    path,
    precision,
    images,
    labels,
    missing_weights,
    open_candidate,
    facts,
    companions=(),
):
    """Writes a model's file, verifies what was written, names it accordingly, and reports.

    The file is verified in a temporary folder of its own, and then published: two exports into
    one folder at once do not see each other's files, and the report is that of the file beside it.

    Args:
        source: The `Source`.
        content: The file's bytes.
        path: The good name, such as `onnx/model.onnx`.
        precision: A key of `limits.LIMITS`.
        images: uint8 array [N, 32, 32, 3].
        labels: Integer array [N], or `None`.
        missing_weights: As `verify.Check` takes them.
        open_candidate: Function of a path: the model, as `verify.Check` takes it, and a
            dictionary of more facts for the report, such as the provider.
        facts: Dictionary, what else the report says of the file.
        companions: Dictionary name -> text, of files beside it.

    Returns:
        The report, as it stands in the JSON file.

    Raises:
        VerificationError: If a stage failed; the file and the report are kept aside.
        OSError: If the disk is full; nothing of the new files is left then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    failure = None
    with tempfile.TemporaryDirectory() as folder:
        candidate_path = Path(folder) / path.name
        candidate_path.write_bytes(content)
        for name, text in dict(companions).items():
            candidate_path.with_name(name).write_text(text, encoding="utf-8")
        candidate, more = open_candidate(candidate_path)
        with _progress() as progress:
            bar = progress.add_task("verifying", total=2 * len(images))
            check = Check(
                source,
                candidate,
                precision,
                images,
                labels,
                missing_weights,
                lambda count: progress.advance(bar, count),
            )
            try:
                stages = check.run()
            except VerificationError as error:
                failure, stages = error, error.report
        report = {
            "verdict": "not verified" if failure else "verified",
            "file": path.name if failure is None else _aside(path, "unverified").name,
            "sha256": sha256(candidate_path),
            "bytes": candidate_path.stat().st_size,
            "precision": precision,
            "truth": source.truth,
            "saved_model": source.name,
            "notes": source.notes,
            "data": f"test images of {source.data_name}",
            "stages": stages,
            **facts,
            **more,
            "environment": files.environment(PACKAGES),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 2),
        }
        with files.lock(path.with_name(".lock")):
            _publish(Path(folder), path, failure is None, companions, report["sha256"])
            files.write_json(report_path(path), report)
    show(report)
    if failure:
        raise failure
    return report


def sha256(path):
    """Returns the hash of a file on the disk."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report_path(path):
    """Returns the report's path: `model.int8.onnx` has `verification.int8.json`."""
    variant = path.stem.removeprefix("model")
    return path.with_name(f"verification{variant}.json")


def _publish(folder, path, verified, companions, digest):
    """Copies the files of a folder to their places by renames, the model as it was verified."""

    def copy(temporary):
        shutil.copyfile(folder / path.name, temporary)
        if sha256(temporary) != digest:
            raise OSError(errno.EIO, "the copy differs from the verified file", str(temporary))

    unverified = _aside(path, "unverified")
    for name in companions:
        files.write_atomically(path.with_name(name), partial(shutil.copyfile, folder / name))
    files.write_atomically(path if verified else unverified, copy)
    if verified:
        unverified.unlink(missing_ok=True)
    elif path.exists():
        os.replace(path, _aside(path, "previous"))


def _aside(path, word):
    return path.with_name(f"{path.stem}.{word}{path.suffix}")


def show(report):
    """Prints a report as a table."""
    title = f"{report['file']}, {report['precision']}: {report['verdict']}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column, justify in (("stage", "left"), ("number", "left"), ("found", "right"),
                            ("limit", "right")):  # fmt: skip
        table.add_column(column, justify=justify)
    for stage, numbers in report["stages"].items():
        limits = numbers.get("limits", {})
        table.add_row(stage, "", VERDICTS[numbers["passed"]], "")
        for key, value in numbers.items():
            if key not in ("passed", "limits"):
                table.add_row("", key.replace("_", " "), _text(value), _text(limits.get(key, "")))
        table.add_section()
    for key in ("provider", "nodes", "opset", "operators", "transposes", "bytes", "seconds"):
        if key in report:
            table.add_row("file" * (key == "provider"), key, _text(report[key]), "")
    console = Console(highlight=False)
    console.print(table)
    for note in report["notes"]:
        console.print(Text(note), soft_wrap=True)


def _text(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(number)}" for key, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _progress():
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        transient=True,
    )
