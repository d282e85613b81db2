"""Pictures of a network's gates."""

import numpy as np
from matplotlib.cbook import boxplot_stats
from matplotlib.colors import AsinhNorm
from matplotlib.ticker import FixedLocator, LogLocator, PercentFormatter

from training.gating.values import display_name
from training.runs import style
from training.runs.style import BLUE, GREY, ORANGE

# How the removed channels were chosen, in `gates.json` and in words.
ORDERS = {"gamma": "smallest |γ|", "l1": "smallest L1 norm of the kernel", "random": "random"}
MARKS = {"gamma": (BLUE, "o"), "l1": (ORANGE, "^"), "random": (GREY, "s")}
CONSTANTS = {"unit mean": "the mean of its {}", "layer mean": "the mean of its layer", "0.5": "0.5"}
COLUMNS = 8  # gates in a row
LABEL = 0.09  # the share of the colour scale that a label takes
LEAST_WIDTH = 7  # inches, of the words below the colour scale
# Inches: a map's side, the strip below it, and what is around them.
SIDE, STRIP, GAP, TITLE, FOOT = 1.25, 0.14, 0.12, 0.3, 0.75


@style.drawing
def overview(findings, path):
    """Draws the content of `gates.json`: values and gammas by layer, accuracies of the trials."""
    figure, panels = style.subplots(2, 2, (11, 8.5))
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.1)
    _draw_values(panels[0, 0], findings["layers"])
    _draw_gammas(panels[0, 1], findings["layers"])
    _draw_replaced(panels[1, 0], findings)
    _draw_slimmed(panels[1, 1], findings)
    figure.suptitle(f"Gates of {findings['arch']}, {findings['images']:,} test images", fontsize=14)
    style.save(figure, path)


@style.drawing
def gates_on_images(images, captions, values, path):
    """Draws images beside what each gate does to them, all on one colour scale.

    Args:
        images: Array [N, H, W, 3], uint8.
        captions: List of strings, of the images.
        values: Gate's name -> array [N, h, w, C] of its values.
        path: Path of the PNG file.
    """
    names = list(values)
    lines = -(-len(names) // COLUMNS)
    columns = min(len(names), COLUMNS)
    maps = {name: value.astype("float64").mean(-1) - 0.5 for name, value in values.items()}
    strips = {name: value.astype("float64").mean((1, 2)) - 0.5 for name, value in values.items()}
    norm = _norm([*maps.values(), *strips.values()])
    line = TITLE + SIDE + STRIP + GAP
    width = max(LEAST_WIDTH, (columns + 1) * (SIDE + GAP) + 3 * GAP)
    height = len(images) * lines * line + FOOT
    figure = style.figure((width, height))

    def panel(column, top, tall, content, **options):
        left = GAP + column * (SIDE + GAP) + (2 * GAP if column else 0)
        box = (left / width, 1 - (top + tall) / height, SIDE / width, tall / height)
        axes = figure.add_axes(box, xticks=[], yticks=[])
        return axes.imshow(content, aspect="auto", interpolation="nearest", **options)

    colours = {"cmap": "RdBu_r", "norm": norm}
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        top = number * lines * line + TITLE
        panel(0, top, SIDE, image).axes.set_xlabel(caption, fontsize=8, loc="left", labelpad=3)
        for place, name in enumerate(names):
            column, top = place % COLUMNS + 1, (number * lines + place // COLUMNS) * line + TITLE
            drawn = panel(column, top, SIDE, maps[name][number], **colours)
            drawn.axes.set_title(display_name(name), fontsize=8, pad=3)
            panel(column, top + SIDE + 0.03, STRIP, strips[name][number][None], **colours)
    bar = figure.add_axes((0.25, 0.42 / height, 0.5, 0.12 / height))
    figure.colorbar(drawn, cax=bar, orientation="horizontal")
    ends = _decades(norm.linear_width / 3, norm.vmax)
    ends = [end for end in ends if end == 0 or abs(norm(end) - norm(0)) > LABEL]
    bar.xaxis.set_major_locator(FixedLocator(ends))
    bar.xaxis.set_minor_locator(FixedLocator([]))
    bar.set_xticklabels([f"{0.5 + end:g}" for end in ends], fontsize=8)
    bar.set_xlabel(
        "gate value. Map: mean over the channels. Strip below: each channel's mean.", fontsize=9
    )
    style.save(figure, path)


def _norm(deviations):
    """Returns a colour scale around 0 on which small and large deviations can be seen.

    The gates of a layer with C channels are within about 1/C of 0.5.
    """
    sizes = np.abs(np.concatenate([np.ravel(values) for values in deviations]))
    largest = max(sizes.max(), 1e-6)
    return AsinhNorm(max(np.median(sizes), largest / 1000), vmin=-largest, vmax=largest)


def _decades(least, most):
    """Returns 0 and the powers of 10 from `least` to `most`, with both signs."""
    if most < least:
        return [0.0]
    powers = np.arange(np.ceil(np.log10(least)), np.floor(np.log10(most)) + 1)
    return [*-(10.0 ** powers[::-1]), 0, *10.0**powers]


def _draw_values(axes, layers):
    ends = {"whislo": "0.01", "q1": "0.25", "med": "0.5", "q3": "0.75", "whishi": "0.99"}
    boxes, sizes = [], []
    for row in layers:
        box = {end: row["gate"]["quantiles"][share] - 0.5 for end, share in ends.items()}
        sizes += [abs(box["q1"]), abs(box["q3"])]
        box["fliers"] = [row["gate"][end] - 0.5 for end in ("min", "max")]
        boxes.append(box | {"label": display_name(row["name"])})
    _draw_boxes(axes, boxes)
    least, most = max(min(sizes), 1e-6), max(abs(end) for box in boxes for end in box["fliers"])
    axes.set_yscale("asinh", linear_width=least)
    ticks = _decades(3 * least, most)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.set_yticklabels([f"{0.5 + tick:g}" for tick in ticks])
    axes.set(title="Gate values: half in the box, 98% within the whiskers")


def _draw_boxes(axes, boxes):
    axes.bxp(
        boxes,
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": "#BBD9EE", "edgecolor": BLUE},
        medianprops={"color": ORANGE},
        flierprops={"marker": ".", "markersize": 4},
    )
    axes.tick_params("x", rotation=90, labelsize=8)


def _draw_gammas(axes, layers):
    sizes = [np.array(row["gamma"]["sorted_sizes"]) for row in layers]
    low, high = min(size.min() for size in sizes), max(size.max() for size in sizes)
    names = [display_name(row["name"]) for row in layers]
    boxes = boxplot_stats(sizes, whis=(1, 99), labels=names)
    _draw_boxes(axes, boxes)
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(title="|γ|: half in the box, 98% within the whiskers")


def _draw_replaced(axes, findings):
    rows = findings["replaced"][::-1]
    kinds = dict.fromkeys(row["units"].removesuffix("s") for row in findings["layers"])
    for place, row in enumerate(rows):
        change, (low, high) = 100 * row["top1_change"], (100 * x for x in row["top1_change_95"])
        axes.errorbar(
            change, place, xerr=[[change - low], [high - change]], fmt="o", capsize=4, color=BLUE
        )
        text = f"{change:+.2f} ({low:+.2f} to {high:+.2f})"
        axes.annotate(
            text,
            (change, place),
            (0, 9),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.axvline(0, color=GREY, linewidth=1)
    names = [CONSTANTS[row["by"]].format("\nor ".join(kinds)) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.5, len(rows) - 0.3)
    trained = findings["as_trained"]["top1"]
    axes.set(
        title="Top-1 if each gate is a constant",
        xlabel=f"points against {trained:.2%} as trained, 95% interval",
    )


def _draw_slimmed(axes, findings):
    rows = findings["slimmed"]
    shares = [0, *(row["share"] for row in rows)]
    for order, (colour, marker) in MARKS.items():
        tops = [findings["as_trained"]["top1"], *(row[order]["top1"] for row in rows)]
        axes.plot(shares, tops, marker=marker, color=colour, label=ORDERS[order])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(
        title="Top-1 without some channels, not retrained",
        xlabel="share of the channels between convolutions that is removed",
    )
    axes.set_ylim(bottom=0)
    axes.legend()
