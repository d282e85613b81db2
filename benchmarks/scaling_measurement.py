"""The turns of the trainings that `scaling.py` compares, and the numbers that follow from them."""

import contextlib
import math
import re
import tempfile
from pathlib import Path

import numpy as np
from rich.progress import Progress

from benchmarks.scaling_processes import Training, ask, two_cores
from export import timing

WARM_UP = 2  # turns, in which all is compiled


def measure(args, console):
    """Returns what was measured: the turns, and what a step of two processes exchanges.

    Each turn is a dictionary of seconds: of a step (`alone` and `apart` on each core, `strong`,
    `weak`, and `quiet`, which is `weak` with gloo's thread out of the way), of a batch of images,
    of an all-reduce of the gradients in one array, and of all those of a step.
    """
    cores = two_cores()
    with contextlib.ExitStack() as stack:
        # Nothing is drawn while a training has its turn.
        progress = stack.enter_context(
            Progress(console=console, auto_refresh=False, transient=True)
        )
        bar = progress.add_task("starting", total=4 * WARM_UP)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(*settings):
            """Starts trainings beside each other, and has their first turns."""
            trainings = [
                stack.enter_context(
                    Training(name, its_cores, [args.arch, str(batch), str(args.steps)], folder)
                )
                for name, its_cores, batch in settings
            ]
            for _ in range(WARM_UP):
                ask(*trainings, do="train")
                progress.update(bar, advance=1, refresh=True)
            return trainings

        both = start(*((f"alone-{core}", [core], args.batch_size) for core in cores))
        (weak,) = start(("weak", cores, 2 * args.batch_size))
        (quiet,) = start(("quiet", cores, 2 * args.batch_size))
        ask(quiet, do="quiet")
        (strong,) = start(("strong", cores, args.batch_size))
        (traffic,) = ask(weak, do="traffic")
        traffic["all_reduces"] = all_reduces(traffic.pop("program"))
        progress.update(bar, description="measuring", total=args.rounds, completed=0)
        turns = []
        for _ in range(args.rounds):
            turns.append(_turn(both, weak, quiet, strong, traffic))
            progress.update(bar, advance=1, refresh=True)
    return {"cores": cores, "turns": turns, "traffic": traffic}


def all_reduces(program):
    """Returns the bytes of each array of each all-reduce in a compiled program, XLA's HLO text."""
    return [
        [_bytes(*array) for array in re.findall(r"([a-z]+)(\d+)\[([\d,]*)\]", arrays)]
        for arrays in re.findall(r" = (\S+|\([^)]*\)) all-reduce\(", program)
    ]


def _bytes(kind, bits, shape):
    return int(bits) // 8 * math.prod(int(size) for size in shape.split(",") if size)


def _turn(both, weak, quiet, strong, traffic):
    gradients = [[4 * traffic["parameters"]]]
    turn = {
        "alone": [ask(training, do="train")[0] for training in both],
        "apart": ask(*both, do="train"),
        "strong": ask(strong, do="train")[0],
        "stream": ask(both[0], do="stream")[0],
        "gradients": ask(weak, do="all_reduce", sizes=gradients)[0],
    }
    for name, training in (("weak", weak), ("quiet", quiet)):
        turn[name] = ask(training, do="train")[0]
        exchanged = ask(training, do="all_reduce", sizes=traffic["all_reduces"])
        turn[f"{name} all-reduces"] = exchanged[0]
    return turn


def _seconds(turns):
    """Returns name -> the seconds of each turn, [turns] or [turns, cores]."""
    return {name: np.array([turn[name] for turn in turns]) for name in turns[0]}


def results(turns, batch_size):
    """Returns images a second of each contender, and its efficiency: by twice one process's."""
    seconds = _seconds(turns)
    one = (batch_size / seconds["alone"]).mean(1)
    speeds = {
        "one": one,
        "apart": (batch_size / seconds["apart"]).sum(1),
        "weak": 2 * batch_size / seconds["weak"],
        "quiet": 2 * batch_size / seconds["quiet"],
        "strong": batch_size / seconds["strong"],
    }
    return [
        {
            "contender": name,
            "images_per_second": timing.percentiles(speed),
            "efficiency": timing.percentiles(speed / ((1 + (name != "one")) * one)),
        }
        for name, speed in speeds.items()
    ]


def step_parts(turns, contender):
    """Returns the parts of a step of two processes with a batch each, in milliseconds.

    What is measured alone: the step of one process, what sharing the memory adds to it, and the
    step's all-reduces. The rest is left over.

    Args:
        turns: As `measure` returns them.
        contender: `"weak"` or `"quiet"`.
    """
    seconds = _seconds(turns)
    alone, apart = (1 / (1 / seconds[name]).mean(1) for name in ("alone", "apart"))
    step = seconds[contender]
    parts = {
        "one process alone": alone,
        "two share the memory": apart - alone,
        "the all-reduces, alone": seconds[f"{contender} all-reduces"],
    }
    parts["the rest: waiting for each other"] = step - sum(parts.values())
    return [
        {"part": name, **_interval(1e3 * part), "share": _share(part, step)}
        for name, part in {**parts, "the step": step}.items()
    ]


def gradients(turns):
    """Returns the milliseconds of one all-reduce of all gradients, and its share of a step."""
    seconds = _seconds(turns)
    share = _share(seconds["gradients"], seconds["weak"])
    return {**_interval(1e3 * seconds["gradients"]), "share": share}


def stream(turns, batch_size):
    """Returns images a second of the input pipeline on one core, and its share of a step."""
    seconds = _seconds(turns)
    return {
        "images_per_second": timing.percentiles(batch_size / seconds["stream"]),
        "share": _share(seconds["stream"], seconds["alone"][:, 0]),
    }


def _interval(values):
    p10, median, p90 = (round(float(value), 3) for value in np.percentile(values, (10, 50, 90)))
    return {"median": median, "p10": p10, "p90": p90}


def _share(part, whole):
    return round(float(np.median(part / whole)), 4)
