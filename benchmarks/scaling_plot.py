"""The picture of scaling: what was measured on two processes, and what the model says of more."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import scaling_model as model

COUNTS = np.unique(np.round(np.geomspace(1, 1024, 60)).astype(int))
TICKS = (1, 2, 8, 64, 512)


def draw(report, path):
    """Draws the efficiency of weak scaling, and the speed-up of strong scaling.

    Args:
        report: Dictionary, what `scaling.json` holds.
        path: Where the PNG is written.
    """
    assumed, batch = report["assumed"], report["batch_size"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
    for colour, training, network in _cases(assumed):
        label = f"{training.name}, {network.name}" if not training.waits else None
        style = {"color": colour, "ls": "--" if training.waits else "-"}
        weak = _curve(model.weak, training, batch, network, COUNTS)
        _band(left, COUNTS, 100 * weak, style, label)
        counts = COUNTS[assumed["strong_batch"] >= COUNTS]
        strong = _curve(model.strong, training, assumed["strong_batch"], network, counts)
        _band(right, counts, counts[:, None] * strong, style)
    _measured(left, report, "weak", 100, "ko", "measured, two processes")
    _measured(left, report, "quiet", 100, "kD", "measured, gloo's thread quiet")
    _measured(right, report, "strong", 2, "ko")
    left.axhline(100 * model.EFFICIENT, color="0.6", lw=1)
    right.plot(COUNTS, COUNTS, color="0.6", lw=1, label="N times as fast")
    limits = [
        model.batch_limits(batch, int(count), assumed["critical_batch"])["speedup"]
        for count in COUNTS
    ]
    right.plot(
        COUNTS, limits, ":", color="0.2", label=f"what {batch} images each save in steps, at most"
    )
    left.set(
        ylim=(0, 105), ylabel="efficiency, %", title=f"weak: {batch} images for each of N devices"
    )
    right.set(
        yscale="log",
        ylim=(0.5, COUNTS[-1]),
        ylabel="times as fast as one device",
        title=f"strong: {assumed['strong_batch']} images over N devices",
    )
    for axes in (left, right):
        axes.set(xscale="log", xlim=(1, COUNTS[-1]), xlabel="devices N", xticks=TICKS)
        axes.set_xticklabels(TICKS)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=2)
    figure.suptitle(
        "Computed, but for the points. Bands: from the all-reduce after the compute to wholly "
        "behind it.\nSolid: each device normalizes by its part; dashed: all by the whole batch, as "
        "multihost does",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cases(assumed):
    """Returns (colour, training, network) of what is drawn: the first training, and the last."""
    networks = [model.Network(**network) for network in assumed["networks"]]
    trainings = [model.Training(**training) for training in assumed["trainings"]]
    drawn = (
        ("C0", trainings[0].name, networks[0]),
        ("C1", trainings[-1].name, networks[0]),
        ("C3", trainings[-1].name, networks[1]),
    )
    return [
        (colour, training, network)
        for colour, name, network in drawn
        for training in trainings
        if training.name == name
    ]


def _curve(function, training, batch, network, counts):
    """Returns the efficiencies for each number of devices, [n, 2]."""
    return np.array([function(training, batch, int(count), network) for count in counts])


def _band(axes, counts, bounds, style, label=None):
    low, high = bounds.T
    axes.fill_between(counts, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.plot(counts, low, **style, lw=1.5, label=label)
    axes.plot(counts, high, **style, lw=0.7)


def _measured(axes, report, contender, scale, marker, label=None):
    """Draws the efficiency of two processes, from its 10th to its 90th percentile."""
    (part,) = (row["efficiency"] for row in report["results"] if row["contender"] == contender)
    middle, low, high = (scale * part[key] for key in ("median", "p10", "p90"))
    error = [[max(0, middle - low)], [max(0, high - middle)]]
    axes.errorbar(2, middle, error, fmt=marker, ms=5, capsize=3, label=label, zorder=3)
