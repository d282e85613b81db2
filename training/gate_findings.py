"""The findings on a network's gates: as numbers that JSON holds, as a table, and in words."""

import math

import numpy as np
from rich import box
from rich.table import Table

from training import gate_values

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
ORDERS = ("smallest", "random", "largest")
NEGLIGIBLE = 1e-3  # of the largest gamma
REPLACED = {
    "unit mean": "its mean over the training images, a constant for each {unit}",
    "layer mean": "one number a layer",
    "0.5": "0.5",
}


def layer(name, gate, distribution):
    """Returns the findings on one gate: its values' spread and its gammas'."""
    counts, edges = distribution.histogram()
    return {
        "name": name,
        "units": gate_values.units(gate),
        "gate": {
            "mean": distribution.mean,
            "std": distribution.std,
            "std_between_units": distribution.std_between,
            "std_within_units": distribution.std_within,
            "share_of_variance_between_units": distribution.share_between,
            "min": distribution.low,
            "max": distribution.high,
            "share_near_half": distribution.near_half,
            "quantiles": dict(
                zip(map(str, QUANTILES), distribution.quantiles(QUANTILES).tolist(), strict=True)
            ),
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        },
        "gamma": spectrum(np.array(gate.gamma), np.array(gate.gate_weights)),
    }


def spectrum(gamma, weights):
    """Returns how a layer's gammas [units] are spread in size, and the weights, largest first."""
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


def compared(score, other):
    """Returns a score's numbers, and its change of top-1 from another, of the same images."""
    change, low, high = score.minus(other)
    return {
        "top1": float(score.top1),
        "loss": float(score.loss),
        "top1_change": change,
        "top1_change_95": [low, high],
    }


def pruning(units, share, scores, trained):
    """Returns the numbers of one share: each order against the network as trained and random."""
    return {
        "units": units,
        "share": share,
        **{order: compared(score, trained) for order, score in scores.items()},
        **{
            f"{order}_against_random": compared(scores[order], scores["random"])
            for order in ("smallest", "largest")
        },
    }


def tables(layers):
    """Returns the table of the gates' values, and that of their gammas."""
    values = _table("gate", "mean", "std", "between", "within", "min", "max", "near 0.5")
    values.caption = (
        "std between the units' means, and within a unit; near 0.5: within "
        f"± {gate_values.NEAR}; a unit is what has a γ"
    )
    spectra = _table("|γ| of gate", "units", "max/mean", "top 10%'s share", "< max/1000")
    for row in layers:
        gate, gamma = row["gate"], row["gamma"]
        values.add_row(
            gate_values.short_name(row["name"]),
            f"{gate['mean']:.4f}",
            *(f"{gate[key]:.1e}" for key in ("std", "std_between_units", "std_within_units")),
            f"{gate['min']:.3f}",
            f"{gate['max']:.3f}",
            f"{gate['share_near_half']:.1%}",
        )
        spectra.add_row(
            gate_values.short_name(row["name"]),
            f"{gamma['count']} {row['units']}",
            f"{gamma['max_over_mean']:.2f}",
            f"{gamma['share_of_top_tenth']:.0%}",
            str(gamma["negligible"]),
        )
    return values, spectra


def _table(name, *numbers):
    table = Table(name, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def verdict(findings):
    """Returns what the numbers say, in lines for a person."""
    trained = findings["as_trained"]
    kinds = dict.fromkeys(row["units"] for row in findings["layers"])
    unit = " or ".join(kind.removesuffix("s") for kind in kinds)
    return [
        f"As trained: top-1 {trained['top1']:.2%}, loss {trained['loss']:.4f}, on "
        f"{findings['images']} test images.",
        *(_spread(kind, findings["layers"]) for kind in kinds),
        *(_replaced(row, unit, trained) for row in findings["replaced"]),
        *(_pruned(row) for row in findings["pruned"]),
        *(
            _ranking(kind, [row for row in findings["pruned"] if row["units"] == kind])
            for kind in kinds
        ),
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
    tops = ", ".join(f"{order} {row[order]['top1']:.2%}" for order in ORDERS)
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
