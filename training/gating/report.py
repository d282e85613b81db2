"""The report on a run's gates: all numbers, as tables and in words, and two pictures."""

import math
from pathlib import Path

import numpy as np

from keras_nam.attention import ATTENTIONS
from training import console, recipes
from training.cli import InputError
from training.data import streams
from training.fitting import network
from training.gating import plots
from training.gating import trials as gate_trials
from training.gating import values as gate_values
from training.runs import files
from training.runs.report import load_model

BATCH = 64  # the inputs of all gates of a batch are held at once
TRAINING_IMAGES = 2000  # that the constants are means over
MAPPED_IMAGES = 6
NEGLIGIBLE = 1e-3  # of the largest gamma
# The columns of the two printed tables: a layer's key in gates.json, and its format.
COLUMNS = {
    "gate": {
        "mean": ("mean", ".4f"),
        "std": ("std", ".1e"),
        "between": ("std_between_units", ".1e"),
        "within": ("std_within_units", ".1e"),
        "min": ("min", ".3f"),
        "max": ("max", ".3f"),
        "near 0.5": ("share_near_half", ".1%"),
    },
    "gamma": {
        "units": ("count", "d"),
        "max/mean": ("max_over_mean", ".2f"),
        "top 10%'s share": ("share_of_top_tenth", ".0%"),
        "< max/1000": ("negligible", "d"),
    },
}
REPLACED = {
    "unit mean": "its mean over the training images, a constant for each {unit}",
    "layer mean": "one number a layer",
    "0.5": "0.5",
}


def report(run, images, data_dir, out):
    """Measures and prints, and writes `gates.json`, `gates.png` and `gate_maps.png`.

    Args:
        run: Path of a run folder; the newest finished run if `None`.
        images: Number of test images, the first ones; all if `None`.
        data_dir: The data set's folder, or `None`.
        out: Folder to write into; `gates/` in the run folder if `None`.

    Returns:
        The content of `gates.json`.

    Raises:
        InputError: If there is no such run, its network has no gate, the set has fewer images, or
            the folder cannot be made.
    """
    folder = Path(run) if run else files.newest_finished()
    job = recipes.Job.from_config(files.read_json(folder / "config.json"), folder)
    model = _gated_model(folder, job.arch)
    dataset = streams.load(job.dataset, data_dir, job.validation_split, job.seed)
    test = dataset.test.take(slice(_count(images, len(dataset.test))))
    training = dataset.train.take(slice(TRAINING_IMAGES))
    out = _made(Path(out) if out else folder / "gates")

    findings = {
        "run": str(folder),
        "arch": job.arch,
        "images": len(test),
        "constants": f"means over {len(training)} training images",
        "data": dataset.source,
        **_measure(model, test, training, job.recipe),
        "environment": files.environment(),
    }
    findings["verdict"] = verdict(findings)
    _print(findings)
    maps = _maps(model, test.take(slice(MAPPED_IMAGES)), job.recipe)
    files.write_atomically(out / "gates.png", lambda path: plots.overview(findings, path))
    files.write_atomically(out / "gate_maps.png", lambda path: plots.maps(*maps, path))
    files.write_json(out / "gates.json", findings)
    console.say(f"written: {out}/gates.json, gates.png, gate_maps.png")
    return findings


def _gated_model(folder, arch):
    if not (folder / "best.keras").is_file():
        raise InputError(f"{folder / 'best.keras'} is missing; train the run to its first epoch.")
    model = load_model(folder / "best.keras")
    if not gate_values.gates(model):
        gated = [f"_{name}" for name, row in ATTENTIONS.items() if gate_values.gates(row.layer())]
        raise InputError(
            f"{folder} is a run of {arch}, which has no NAM gate; expected an arch that ends in "
            f"{', '.join(gated)}."
        )
    return network.with_dtype(model, "float32")


def _count(images, most):
    if images is not None and not 1 <= images <= most:
        raise InputError(f"--images {images}: expected 1 to {most}, the number of test images.")
    return images


def _made(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be made ({error.strerror}); name another with --out."
        ) from None
    return folder


def _measure(model, test, training, recipe):
    """Returns the numbers of each layer and of each trial."""
    stream, training_stream = (
        streams.evaluation_stream(split, BATCH, recipe.mean, recipe.std)
        for split in (test, training)
    )
    means = {
        name: distribution.unit_means
        for name, distribution in gate_values.distributions(model, training_stream).items()
    }
    found = gate_values.distributions(model, stream)
    trained = gate_trials.Score.of(model, stream)
    with console.progress("trials of the gates", gate_trials.count(model)) as advance:
        trials = gate_trials.Trials(model, stream, advance)
        return {
            "layers": [
                {
                    "name": name,
                    "units": gate_values.units(gate),
                    "gate": found[name].numbers,
                    "gamma": spectrum(np.array(gate.gamma), np.array(gate.gate_weights)),
                }
                for name, gate in trials.named.items()
            ],
            "as_trained": {"top1": trained.top1, "loss": trained.loss},
            "replaced": gate_trials.replacements(trials, means, trained),
            "pruned": gate_trials.prunings(trials, trained),
        }


def spectrum(gamma, weights):
    """Returns the sizes of a layer's gammas [units] and its gate weights, the largest first."""
    sizes = np.sort(np.abs(gamma.astype("float64")))[::-1]
    total = sizes.sum() or 1.0  # where every gamma is 0, each share of the sum is 0
    return {
        "count": sizes.size,
        "max_over_mean": float(sizes[0] * sizes.size / total),
        "share_of_top_tenth": float(sizes[: math.ceil(sizes.size / 10)].sum() / total),
        "negligible": int((sizes < NEGLIGIBLE * sizes[0]).sum()),
        "sorted_sizes": sizes.tolist(),
        "sorted_weights": np.sort(weights)[::-1].tolist(),
    }


def _maps(model, split, recipe):
    """Returns images, and name -> the gate's mean over the channels at each position.

    The spatial gates if there are any, else the channels' gates.
    """
    named = gate_values.named_gates(model)
    spatial = [name for name, gate in named.items() if gate_values.units(gate) == "positions"]
    images = streams.normalize(split.images, recipe.mean, recipe.std)
    values = dict(zip(named, gate_values.value_function(model)(images), strict=True))
    return split.images, {
        name: gate_values.over_positions(named[name], values[name]) for name in spatial or named
    }


def _print(findings):
    console.say(
        f"{findings['run']} ({findings['arch']}) on {findings['images']} test images: "
        f"{findings['data']}"
    )
    for part, columns in COLUMNS.items():
        rows = [
            [
                gate_values.short_name(row["name"]),
                *(format(row[part][key], form) for key, form in columns.values()),
            ]
            for row in findings["layers"]
        ]
        console.table((part, *columns), rows)
    console.say(
        "std: between the units' means, and within a unit, which is a channel or a position; "
        f"near 0.5: within ± {gate_values.NEAR}"
    )
    for line in findings["verdict"]:
        console.say(f"- {line}")


def verdict(findings):
    """Returns the conclusions from the numbers, in lines of text."""
    trained, pruned = findings["as_trained"], findings["pruned"]
    kinds = dict.fromkeys(row["units"] for row in findings["layers"])
    unit = " or ".join(kind.removesuffix("s") for kind in kinds)
    return [
        f"As trained: top-1 {trained['top1']:.2%}, loss {trained['loss']:.4f}, on "
        f"{findings['images']} test images.",
        *(_spread(kind, findings["layers"]) for kind in kinds),
        *(_replaced(row, unit, trained) for row in findings["replaced"]),
        *map(_pruned, pruned),
        *(_ranking(kind, [row for row in pruned if row["units"] == kind]) for kind in kinds),
    ]


def _spread(kind, layers):
    gates = [row["gate"] for row in layers if row["units"] == kind]
    shares, within, near = (
        [gate[key] for gate in gates]
        for key in ("share_of_variance_between_units", "std_within_units", "share_near_half")
    )
    return (
        f"The gates of {kind}: {np.mean(near):.1%} of the values are within 0.5 ± "
        f"{gate_values.NEAR} (mean over {len(gates)} layers); {min(shares):.0%} to "
        f"{max(shares):.0%} of a layer's variance is a constant for each {kind.removesuffix('s')}, "
        f"and the rest, a standard deviation of {min(within):.2g} to {max(within):.2g}, changes "
        "with the input."
    )


def _replaced(row, unit, trained):
    return (
        f"Every gate replaced by {REPLACED[row['by']].format(unit=unit)}: top-1 "
        f"{trained['top1']:.2%} becomes {row['top1']:.2%} ({_change(row)}), "
        f"loss {trained['loss']:.4f} becomes {row['loss']:.4f}."
    )


def _pruned(row):
    orders = ("smallest", "random", "largest")
    tops = ", ".join(f"{order} {row[order]['top1']:.2%}" for order in orders)
    return (
        f"{row['share']:.0%} of each gate's {row['units']} set to 0, by |γ|: top-1 {tops}. "
        f"Against random: smallest {_change(row['smallest_against_random'])}; "
        f"largest {_change(row['largest_against_random'])}."
    )


def _ranking(units, rows):
    """Returns whether the gammas tell which units matter: the smallest are then missed less."""
    ends = [row["smallest_against_random"]["top1_change_95"] for row in rows]
    better = [row["share"] for row, (low, _) in zip(rows, ends, strict=True) if low > 0]
    worse = [row["share"] for row, (_, high) in zip(rows, ends, strict=True) if high < 0]
    return (
        f"|γ| as the importance of {units}: without those of the smallest |γ| the accuracy is "
        f"above that without random ones at {_shares(better)} of them, below it at "
        f"{_shares(worse)}, as far as the intervals (over images, not draws) show."
    )


def _shares(shares):
    return ", ".join(f"{share:.0%}" for share in shares) or "no share"


def _change(row):
    low, high = row["top1_change_95"]
    shown = "" if low > 0 or high < 0 else ": no difference shown"
    return (
        f"{100 * row['top1_change']:+.2f} points, 95% interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}{shown}"
    )
