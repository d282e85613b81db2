"""Pictures of a network's gates, drawn without a screen."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from training import gate_values

SHOWN_GATES = 8
BANDS = (("0.01", "0.99", 0.2), ("0.25", "0.75", 0.5))
COLOURS = {"smallest": "tab:green", "random": "tab:gray", "largest": "tab:red"}
STYLES = {"channels": "-", "positions": "--"}


def overview(findings, path):
    """Draws the gates' values and gammas by layer, and the accuracy of the trials.

    Args:
        findings: Dictionary, as `gate_report.report` returns it.
        path: Where the PNG is written.
    """
    figure, panels = plt.subplots(2, 3, figsize=(17, 9.5), layout="constrained")
    layers = findings["layers"]
    _draw_values(panels[0, 0], layers)
    _draw_deviations(panels[0, 1], layers)
    _draw_sizes(panels[0, 2], layers)
    _draw_weights(panels[1, 0], layers)
    _draw_replaced(panels[1, 1], findings)
    _draw_pruned(panels[1, 2], findings)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    figure.suptitle(f"gates of {findings['run']}, {findings['images']} test images")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def maps(images, values, path):
    """Draws images beside what each gate lets through at each position.

    Args:
        images: Array [N, H, W, 3], 0–255.
        values: Dictionary name -> array [N, h, w], the means over the channels; of more than
            `SHOWN_GATES`, some are drawn.
        path: Where the PNG is written.
    """
    chosen = sorted(set(np.linspace(0, len(values) - 1, SHOWN_GATES).round().astype(int)))
    names = [list(values)[i] for i in chosen]
    size = 1.6  # inches
    figure, panels = plt.subplots(
        len(images) + 1,
        len(names) + 1,
        figsize=(size * (len(names) + 1), size * len(images) + 0.8),
        height_ratios=[1] * len(images) + [0.06],
        layout="constrained",
    )
    for axes in [*panels[:-1].flat, panels[-1, 0]]:
        axes.axis("off")
    height, width = images.shape[1:3]
    for axes, image in zip(panels[:-1, 0], images, strict=True):
        axes.imshow(image)
    for (*column, scale), name in zip(panels.T[1:], names, strict=True):
        deviations = values[name].astype("float64") - 0.5
        ends = [deviations.min(), deviations.max()]
        for axes, deviation in zip(column, deviations, strict=True):
            drawn = axes.imshow(
                deviation,
                vmin=ends[0],
                vmax=ends[1],
                interpolation="bilinear",
                extent=(0, width, height, 0),
            )
        column[0].set_title(gate_values.short_name(name), fontsize=8)
        figure.colorbar(drawn, cax=scale, orientation="horizontal", ticks=ends)
        scale.set_xticklabels([f"{end:+.0e}" for end in ends], fontsize=7)
    figure.suptitle("gate value − 0.5, mean over the channels; each column has its own scale")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _by_layer(axes, layers):
    labels = [gate_values.short_name(row["name"]) for row in layers]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)


def _draw_values(axes, layers):
    for x, row in enumerate(layers):
        quantiles = row["gate"]["quantiles"]
        for low, high, alpha in BANDS:
            bottom, top = quantiles[low] - 0.5, quantiles[high] - 0.5
            axes.bar(x, top - bottom, 0.7, bottom, color="tab:blue", alpha=alpha)
    for key, marker in (("min", "v"), ("max", "^")):
        ends = [row["gate"][key] - 0.5 for row in layers]
        axes.plot(ends, marker, color="tab:blue", markersize=4)
    medians = [row["gate"]["quantiles"]["0.5"] - 0.5 for row in layers]
    axes.plot(medians, "_", color="black", markersize=12)
    # A layer's gates may be as near 0.5 as 1/C.
    axes.set_yscale("symlog", linthresh=1e-5)
    _by_layer(axes, layers)
    axes.set(title="gate value − 0.5: median, 25–75%, 1–99%, least and greatest")


def _draw_deviations(axes, layers):
    for key, label, marker in (
        ("std_between_units", "between the units' means (a constant each)", "s"),
        ("std_within_units", "within a unit (changes with the input)", "o"),
    ):
        axes.plot([row["gate"][key] for row in layers], marker, label=label)
    _by_layer(axes, layers)
    axes.set(yscale="log", title="standard deviation of the gate values")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 10)  # room for the legend
    axes.legend(loc="lower left", fontsize=8)


def _draw_spectra(axes, layers, key):
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
    for row, colour in zip(layers, colours, strict=True):
        sizes = row["gamma"][key]
        axes.plot(
            np.linspace(0, 1, len(sizes)),
            sizes,
            STYLES[row["units"]],
            color=colour,
            label=gate_values.short_name(row["name"]),
        )
    if any(row["gamma"][key][0] > 0 for row in layers):
        axes.set_yscale("log")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="rank within the layer")


def _draw_sizes(axes, layers):
    _draw_spectra(axes, layers, "sorted_sizes")
    axes.set(title="|γ|, sorted")
    axes.legend(fontsize=6, ncols=2, loc="lower left")


def _draw_weights(axes, layers):
    _draw_spectra(axes, layers, "sorted_weights")
    axes.set(title="gate weights w, sorted")


def _draw_replaced(axes, findings):
    rows = findings["replaced"]
    names = ["as trained", *(row["by"] for row in rows)]
    tops = [findings["as_trained"]["top1"], *(row["top1"] for row in rows)]
    halves = [0.0, *(row["top1_change_95"][1] - row["top1_change"] for row in rows)]
    bars = axes.bar(names, tops, color=["tab:blue"] + ["tab:orange"] * len(rows))
    axes.errorbar(names[1:], tops[1:], halves[1:], fmt="none", ecolor="black", capsize=4)
    labels = [f"{tops[0]:.2%}"] + [
        f"{row['top1']:.2%}\n{100 * row['top1_change']:+.2f} ± {100 * half:.2f}"
        for row, half in zip(rows, halves[1:], strict=True)
    ]
    axes.bar_label(bars, labels, label_type="center", color="white", fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(title="top-1 with every gate replaced (± 95%, paired)")


def _draw_pruned(axes, findings):
    trained = findings["as_trained"]["top1"]
    for kind in dict.fromkeys(row["units"] for row in findings["pruned"]):
        rows = [row for row in findings["pruned"] if row["units"] == kind]
        for order, colour in COLOURS.items():
            axes.plot(
                [0, *(row["share"] for row in rows)],
                [trained, *(row[order]["top1"] for row in rows)],
                STYLES[kind],
                marker="o",
                color=colour,
                label=f"{kind}, {order}{' |γ|' * (order != 'random')}",
            )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="closed in each gate", title="top-1 with units' outputs 0")
    axes.set_ylim(bottom=0)
    axes.legend()
