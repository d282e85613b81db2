"""The benchmark of scaling from its measurements to its report: JSON, tables, a picture."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import scaling_measurement as measurement
from benchmarks import scaling_model as model
from benchmarks.scaling_plot import draw
from benchmarks.scaling_tables import show
from export import timing
from keras_nam import create_model
from keras_nam.models import parse_arch
from training import recipes, runs
from training.cli import InputError
from training.multiply_adds import multiply_adds

PACKAGES = ("jax", "keras", "tensorflow", "numpy")
LARGE = "r50_nam"
CLASSES = 100
WIDTH = 150  # characters, of the widest table
STRONG_BATCH = recipes.PADDLE.batch_size  # images over all devices
FLOPS = 6  # of a multiply-add: two operations, forward and for the gradients of both factors
MEASURED = ("command", "arch", "batch_size", "steps", "cores", "turns", "traffic", "environment")


def benchmark(args, command):
    """Measures, computes, prints and writes, as the command line of `scaling` says.

    Args:
        args: The parsed options.
        command: String, what was called.

    Returns:
        The report.
    """
    console = Console(highlight=False, width=WIDTH)
    measured = read(args.measured) if args.measured else _measure(args, command, console)
    report = {**measured, "noisy_above": timing.NOISY, **computed(measured, args)}
    folder, plot = Path(args.output), Path(args.plot)
    folder.mkdir(parents=True, exist_ok=True)
    plot.parent.mkdir(parents=True, exist_ok=True)
    runs.write_atomically(plot, lambda temporary: draw(report, temporary))
    runs.write_atomically(folder / "scaling.md", lambda temporary: _write(report, temporary))
    runs.write_json(folder / "scaling.json", report)
    show(report, console)
    console.print(f"written: {folder}/scaling.json, scaling.md, {plot}", markup=False)
    return report


def read(path):
    """Returns the measurements of an earlier report; InputError if it has none."""
    report = runs.read_json(path)
    missing = [key for key in MEASURED if key not in report]
    if missing:
        raise InputError(f"--measured {path} has no {missing[0]}: expected a scaling.json")
    return {key: report[key] for key in (*MEASURED, "date")}


def _measure(args, command, console):
    try:
        parse_arch(args.arch)
    except ValueError as error:
        raise InputError(f"--arch {args.arch}: {error}") from None
    return {
        "command": command,
        "arch": args.arch,
        "batch_size": args.batch_size,
        "steps": args.steps,
        **measurement.measure(args, console),
        "environment": runs.environment(PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def computed(measured, args):
    """Returns what follows from the measurements and from what is assumed."""
    turns, batch_size, traffic = measured["turns"], measured["batch_size"], measured["traffic"]
    results = measurement.results(turns, batch_size)
    image_seconds = 1 / results[0]["images_per_second"]["median"]
    trainings = open_trainings(measured["arch"], image_seconds, traffic, args.gpu_tflops)
    return {
        "rounds": len(turns),
        "results": results,
        "step": {name: measurement.step_parts(turns, name) for name in ("weak", "quiet")},
        "gradients": measurement.gradients(turns),
        "stream": measurement.stream(turns, batch_size),
        "assumed": {
            "gpu_tflops": args.gpu_tflops,
            "critical_batch": args.critical_batch,
            "strong_batch": STRONG_BATCH,
            "networks": [vars(network) for network in model.NETWORKS],
            "trainings": [vars(training) for training in trainings],
        },
        "model": [
            row
            for training in trainings
            for network in model.NETWORKS
            for row in model_rows(training, network, batch_size)
        ],
        "batch_limits": [
            model.batch_limits(batch_size, devices, args.critical_batch)
            for devices in (1, *model.DEVICES)
        ],
    }


def open_trainings(arch, image_seconds, traffic, gpu_tflops):
    """Returns the `scaling_model.Training` of each case, twice where normalizations may wait.

    Args:
        arch: String, the network that was measured.
        image_seconds: Its seconds an image on a core.
        traffic: What a step of it exchanges, as `scaling_training.traffic` returns it.
        gpu_tflops: What a GPU reaches, assumed.
    """
    waits = len(traffic["all_reduces"]) - 1
    cases = {f"{arch}, this CPU's core": (arch, image_seconds)}
    for name in dict.fromkeys((arch, LARGE)):
        operations = FLOPS * multiply_adds(name, "cifar", CLASSES)
        cases[f"{name}, assumed GPU"] = (name, operations / gpu_tflops / 1e12)
    trainings = []
    for name, (its_arch, seconds) in cases.items():
        parameters, normalizations = facts(its_arch)
        # As many for each normalization as were counted in the network that was measured.
        its_waits = round(waits * normalizations / traffic["normalizations"])
        trainings += [
            model.Training(name, seconds, 4 * parameters, count) for count in (0, its_waits)
        ]
    return trainings


def facts(arch):
    """Returns a network's trainable parameters, and how many normalizations it has."""
    network = create_model(arch, CLASSES)
    parameters = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    kinds = [type(layer).__mro__ for layer in network._flatten_layers()]
    return parameters, sum("BatchNormalization" in {c.__name__ for c in kind} for kind in kinds)


def model_rows(training, network, batch_size):
    """Returns the efficiencies of weak and strong scaling, and where they fall below a half."""
    rows = []
    for name, function, batch in (
        ("weak", model.weak, batch_size),
        ("strong", model.strong, STRONG_BATCH),
    ):

        def efficiency(devices, function=function, batch=batch):
            return function(training, batch, devices, network)

        rows.append(
            {
                "training": training.name,
                "waits": training.waits,
                "network": network.name,
                "scaling": name,
                "efficiency": {str(devices): efficiency(devices) for devices in model.DEVICES},
                "half_up_to": [model.last_efficient(efficiency, bound) for bound in (0, 1)],
            }
        )
    return rows


def _write(report, path):
    """Writes the tables as Markdown."""
    with open(path, "w", encoding="utf-8") as file:
        show(report, Console(file=file, width=WIDTH, highlight=False))
