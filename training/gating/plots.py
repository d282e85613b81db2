"""Pictures of a network's gates, drawn without a screen."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from training.gating.values import short_name

SHOWN_GATES = 8
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
    _draw_spectra(panels[0, 2], layers, "sorted_sizes", "|γ|, sorted")
    panels[0, 2].legend(fontsize=6, ncols=2, loc="lower left")
    _draw_spectra(panels[1, 0], layers, "sorted_weights", "gate weights w, sorted")
    _draw_replaced(panels[1, 1], findings)
    _draw_pruned(panels[1, 2], findings)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    figure.suptitle(f"gates of {findings['run']}, {findings['images']} test images")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def maps(images, values, path):
    """Draws images beside the values of some gates at each position.

    Args:
        images: Array [N, H, W, 3], 0–255.
        values: Dictionary name -> array [N, h, w], the means over the channels; of more than
            `SHOWN_GATES`, some are drawn.
        path: Where the PNG is written.
    """
    chosen = sorted(set(np.linspace(0, len(values) - 1, SHOWN_GATES).round().astype(int)))
    names = [list(values)[number] for number in chosen]
    size = 1.6  # inches
    figure, panels = plt.subplots(
        len(images),
        len(names) + 1,
        figsize=(size * (len(names) + 1), size * len(images) + 0.8),
        layout="constrained",
    )
    for axes in panels.flat:
        axes.axis("off")
    for axes, image in zip(panels[:, 0], images, strict=True):
        axes.imshow(image)
    height, width = images.shape[1:3]
    for column, name in zip(panels.T[1:], names, strict=True):
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
        column[0].set_title(short_name(name), fontsize=8)
        scale = figure.colorbar(drawn, ax=column, location="bottom", ticks=ends)
        scale.ax.set_xticklabels([f"{end:+.0e}" for end in ends], fontsize=7)
    figure.suptitle("gate value − 0.5, mean over the channels; each column has its own scale")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label_layers(axes, layers):
    labels = [short_name(row["name"]) for row in layers]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)


def _draw_values(axes, layers):
    boxes = []
    for row in layers:
        gate, quantiles = row["gate"], row["gate"]["quantiles"]
        ends = {"whislo": "0.01", "q1": "0.25", "med": "0.5", "q3": "0.75", "whishi": "0.99"}
        box = {end: quantiles[share] - 0.5 for end, share in ends.items()}
        boxes.append({**box, "fliers": [gate["min"] - 0.5, gate["max"] - 0.5]})
    axes.bxp(boxes, positions=range(len(layers)), widths=0.7)
    # A layer's gates may be as near 0.5 as 1/C.
    axes.set_yscale("symlog", linthresh=1e-5)
    _label_layers(axes, layers)
    axes.set(title="gate value − 0.5: median, 25–75%, 1–99%, minimum and maximum")


def _draw_deviations(axes, layers):
    for key, label, marker in (
        ("std_between_units", "between the units' means (a constant each)", "s"),
        ("std_within_units", "within a unit (changes with the input)", "o"),
    ):
        axes.plot([row["gate"][key] for row in layers], marker, label=label)
    _label_layers(axes, layers)
    axes.set(yscale="log", title="standard deviation of the gate values")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 10)  # room for the legend
    axes.legend(loc="lower left", fontsize=8)


def _draw_spectra(axes, layers, key, title):
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
    for row, colour in zip(layers, colours, strict=True):
        sizes = row["gamma"][key]
        ranks = np.linspace(0, 1, len(sizes))
        style = STYLES[row["units"]]
        axes.plot(ranks, sizes, style, color=colour, label=short_name(row["name"]))
    if any(row["gamma"][key][0] > 0 for row in layers):
        axes.set_yscale("log")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="rank within the layer", title=title)


def _draw_replaced(axes, findings):
    names, tops = ["as trained"], [findings["as_trained"]["top1"]]
    halves, labels = [0.0], [f"{tops[0]:.2%}"]
    for row in findings["replaced"]:
        half = row["top1_change_95"][1] - row["top1_change"]
        names.append(row["by"])
        tops.append(row["top1"])
        halves.append(half)
        labels.append(f"{row['top1']:.2%}\n{100 * row['top1_change']:+.2f} ± {100 * half:.2f}")
    colours = ["tab:blue", *["tab:orange"] * len(findings["replaced"])]
    bars = axes.bar(names, tops, yerr=halves, color=colours, capsize=4)
    axes.bar_label(bars, labels, label_type="center", color="white", fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(title="top-1 with every gate replaced (± 95%, paired)")


def _draw_pruned(axes, findings):
    trained = findings["as_trained"]["top1"]
    for kind, style in STYLES.items():
        rows = [row for row in findings["pruned"] if row["units"] == kind]
        for order, colour in COLOURS.items() if rows else ():
            axes.plot(
                [0, *(row["share"] for row in rows)],
                [trained, *(row[order]["top1"] for row in rows)],
                style,
                marker="o",
                color=colour,
                label=f"{kind}, {order}{' |γ|' * (order != 'random')}",
            )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="closed in each gate", title="top-1 with units' outputs 0")
    axes.set_ylim(bottom=0)
    axes.legend()
