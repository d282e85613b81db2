"""The benchmark of the training step from the networks to its report: JSON, tables, a picture."""

from datetime import UTC, datetime
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import Progress

from benchmarks import train_step_floor, train_step_memory, train_step_profile
from benchmarks.train_step_contenders import (
    FLOOR,
    OURS,
    PLAIN,
    check_alike,
    new_task,
    open_contenders,
)
from benchmarks.train_step_networks import check_arch, plain_arch
from benchmarks.train_step_tables import draw, show
from export import timing
from export.devices import prepare_tensorflow
from keras_nam import create_model
from training import runs
from training.cli import InputError

PACKAGES = ("tensorflow", "keras", "numpy", "torch")
# A step has no choice of kernels to make after its second, and takes seconds.
WARM_UP = 2
# Name of a ratio -> the contenders whose times of one round are divided.
RATIOS = {
    "ours / plain": (OURS, PLAIN),
    "floor / ours": (FLOOR, OURS),
    "floor / plain": (FLOOR, PLAIN),
}


def benchmark(args, command):
    """Measures, prints and writes, as the command line of `train_step` says; returns the report.

    Args:
        args: The parsed options.
        command: String, what was called.
    """
    check_arch(args.arch)
    check_keras()
    device = args.device.upper()
    prepare_tensorflow(device, args.threads)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    memory = _memory(args, device)
    contenders, left_out = open_contenders(
        new_task(args.arch, args.batch_size, device, args.threads)
    )
    check_alike(contenders)
    seconds = _measure(contenders, args, console)
    profile = None
    if device == "CPU":
        profile = train_step_profile.by_operation(contenders[0].step)
    report = {
        "command": command,
        "arch": args.arch,
        "batch_size": args.batch_size,
        "dtype": contenders[0].settings["dtype"],
        "device": device,
        "threads": args.threads,
        "rounds": args.rounds,
        "warm_up": WARM_UP,
        "noisy_above": timing.NOISY,
        "floor_flops": args.batch_size * _flops_an_image(args.arch),
        "left_out": left_out,
        "results": results(seconds),
        "ratios": ratios(seconds),
        "memory": memory,
        "profile": profile,
        "environment": runs.environment(PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    runs.write_atomically(folder / "train_step.png", lambda temporary: draw(report, temporary))
    runs.write_atomically(folder / "train_step.md", lambda temporary: _write(report, temporary))
    runs.write_json(folder / "train_step.json", report)
    show(report, console)
    console.print(f"written: {folder}/train_step.json, train_step.md, train_step.png", markup=False)
    return report


def check_keras():
    """Raises an InputError unless Keras is set as the contenders are written."""
    setting = (keras.config.backend(), keras.config.image_data_format())
    if setting != ("tensorflow", "channels_last"):
        raise InputError(
            f"Keras is set to the backend {setting[0]}, {setting[1]}: expected tensorflow, "
            "channels_last; see KERAS_BACKEND and keras.json"
        )


def results(seconds):
    """Returns a row a contender: its time, images a second, and its time by ours of the round.

    Args:
        seconds: As `timing.measure` returns it, with one batch.
    """
    rows = timing.summarize(seconds, baseline=OURS)
    for row, its_own in zip(rows, seconds.values(), strict=True):
        ours = seconds[OURS, row["batch"]]
        row |= {"contender": row.pop("model"), "ratio": timing.percentiles(its_own / ours)}
        del row["speedup"]
    return rows


def ratios(seconds):
    """Returns the ratios of `RATIOS`, each the median over the rounds with its spread."""
    times = {name: its_own for (name, _), its_own in seconds.items()}
    return {
        name: timing.percentiles(times[above] / times[below])
        for name, (above, below) in RATIOS.items()
    }


def _memory(args, device):
    """Returns bytes an image of ours and plain, and their ratio; `None` where it is not known."""
    if not train_step_memory.is_measurable(device):
        return None
    archs = {OURS: args.arch, PLAIN: plain_arch(args.arch)}
    peaks = train_step_memory.measure(archs.values(), args.batch_size, device, args.threads)
    numbers = {name: round(peaks[arch]) for name, arch in archs.items()}
    return {**numbers, "ratio": round(peaks[args.arch] / peaks[archs[PLAIN]], 4)}


def _measure(contenders, args, console):
    """Returns the seconds of each step, as `timing.measure` does."""
    with Progress(console=console, auto_refresh=False, transient=True) as progress:
        bar = progress.add_task("measuring", total=args.rounds)
        return timing.measure(
            {contender.name: lambda batch, its=contender: its.step() for contender in contenders},
            {args.batch_size: None},
            args.rounds,
            advance=lambda: progress.update(bar, advance=1, refresh=True),
            warm_up=WARM_UP,
        )


def _flops_an_image(arch):
    products = train_step_floor.products(create_model(plain_arch(arch)))
    return sum(product.flops for product in products)


def _write(report, path):
    """Writes the tables as Markdown."""
    with open(path, "w", encoding="utf-8") as file:
        show(report, Console(file=file, width=200, highlight=False))
