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
    """Draws the content of `gates.json`: values and gammas by layer, accuracies of the trials."""
    figure, panels = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained")
    _draw_values(panels[0, 0], findings["layers"])
    _draw_gammas(panels[0, 1], findings["layers"])
    _draw_replaced(panels[1, 0], findings)
    _draw_pruned(panels[1, 1], findings)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    figure.suptitle(f"gates of {findings['run']}, {findings['images']} test images")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def maps(images, values, path):
    """Draws images [N, H, W, 3] beside some gates' maps: name -> [N, h, w], channels' means."""
    chosen = sorted(set(np.linspace(0, len(values) - 1, SHOWN_GATES).round().astype(int)))
    names = [list(values)[number] for number in chosen]
    rows, columns = len(images), len(names) + 1
    figure, panels = plt.subplots(
        rows, columns, figsize=(1.6 * columns, 1.6 * rows + 0.8), layout="constrained"
    )
    for axes in panels.flat:
        axes.axis("off")
    for axes, image in zip(panels[:, 0], images, strict=True):
        axes.imshow(image)
    style = {"interpolation": "bilinear", "extent": (0, images.shape[2], images.shape[1], 0)}
    for column, name in zip(panels.T[1:], names, strict=True):
        deviations = values[name].astype("float64") - 0.5
        low, high = deviations.min(), deviations.max()
        for axes, deviation in zip(column, deviations, strict=True):
            drawn = axes.imshow(deviation, vmin=low, vmax=high, **style)
        column[0].set_title(short_name(name), fontsize=8)
        scale = figure.colorbar(drawn, ax=column, location="bottom", ticks=[low, high])
        scale.ax.set_xticklabels([f"{low:+.0e}", f"{high:+.0e}"], fontsize=7)
    figure.suptitle("gate value − 0.5, mean over the channels; each column has its own scale")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_values(axes, layers):
    ends = {"whislo": "0.01", "q1": "0.25", "med": "0.5", "q3": "0.75", "whishi": "0.99"}
    boxes = []
    for row in layers:
        box = {end: row["gate"]["quantiles"][share] - 0.5 for end, share in ends.items()}
        box["fliers"] = [row["gate"][end] - 0.5 for end in ("min", "max")]
        boxes.append(box | {"label": short_name(row["name"])})
    axes.bxp(boxes, widths=0.7)
    axes.tick_params("x", rotation=90, labelsize=8)
    axes.set_yscale("symlog", linthresh=1e-5)  # a layer's gates may be as near 0.5 as 1/C
    axes.set(title="gate value − 0.5: median, 25–75%, 1–99%, minimum and maximum")


def _draw_gammas(axes, layers):
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
    for row, colour in zip(layers, colours, strict=True):
        sizes = row["gamma"]["sorted_sizes"]
        style, label = STYLES[row["units"]], short_name(row["name"])
        axes.plot(np.linspace(0, 1, len(sizes)), sizes, style, color=colour, label=label)
    if any(row["gamma"]["sorted_sizes"][0] > 0 for row in layers):
        axes.set_yscale("log")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="rank within the layer", title="|γ|, sorted")
    axes.legend(fontsize=6, ncols=2, loc="lower left")


def _draw_replaced(axes, findings):
    rows = findings["replaced"]
    names = ["as trained", *(row["by"] for row in rows)]
    tops = [findings["as_trained"]["top1"], *(row["top1"] for row in rows)]
    halves = [0, *(row["top1_change_95"][1] - row["top1_change"] for row in rows)]
    bars = axes.bar(names, tops, yerr=halves, capsize=4)
    axes.bar_label(bars, fmt="{:.2%}", label_type="center", color="white")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(title="top-1 with every gate replaced (± 95%, paired)")


def _draw_pruned(axes, findings):
    trained = findings["as_trained"]["top1"]
    for order, colour in COLOURS.items():
        for kind, style in STYLES.items():
            rows = [row for row in findings["pruned"] if row["units"] == kind]
            shares = [0, *(row["share"] for row in rows)]
            tops = [trained, *(row[order]["top1"] for row in rows)]
            if rows:
                axes.plot(shares, tops, f"o{style}", color=colour, label=f"{kind}, {order}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="closed in each gate", title="top-1 with units' outputs 0, by |γ|")
    axes.set_ylim(bottom=0)
    axes.legend()
