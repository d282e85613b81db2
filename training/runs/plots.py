"""Pictures of a run."""

import itertools
import math
from operator import itemgetter

import numpy as np
from matplotlib.ticker import PercentFormatter

from training.runs import style
from training.runs.scores import surest_mistakes, worst_confusions

# Column of `history.csv` -> its name, which is the best of it, and its format.
QUALITIES = {"loss": ("cross-entropy", min, ".3f"), "top1": ("top-1", max, ".1%")}


@style.drawing
def curves(rows, recipe, title, path):
    """Draws loss, top-1 and learning rate by epoch.

    Args:
        rows: The rows of `history.csv`.
        recipe: The run's `Recipe`, for the sizes, images and labels of its training.
        title: String.
        path: Path of the PNG file.
    """
    figure, panels = style.subplots(1, 3, (13, 4))
    epochs = [row["epoch"] for row in rows]
    line = {"marker": "." if len(rows) < 40 else ""}
    training = "training, augmented images" if recipe.augment else "training"
    smoothed = f", labels smoothed by {recipe.label_smoothing:g}" if recipe.label_smoothing else ""
    for axes, (key, (name, best_of, form)) in zip(panels, QUALITIES.items(), strict=False):
        held_out = [(row["epoch"], row[f"val_{key}"]) for row in rows]
        finite = [point for point in held_out if math.isfinite(point[1])]
        axes.plot(epochs, [row[key] for row in rows], label=training, **line)
        label = f"held out, last {held_out[-1][1]:{form}}"
        if finite:
            best = best_of(finite, key=itemgetter(1))
            axes.scatter(*best, marker="*", s=90, color=style.ORANGE, zorder=3)
            label += f", best (★) {best[1]:{form}}"
        axes.plot(*zip(*held_out, strict=True), label=label, **line)
        axes.legend()
        axes.set_title(name + smoothed * (key == "loss"))
    panels[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panels[2].plot(epochs, [row["learning_rate"] for row in rows], **line)
    panels[2].set_title("learning rate at an epoch's end")
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _mark_sizes(axes, epochs, recipe)
    figure.suptitle(title)
    style.save(figure, path)


def _mark_sizes(axes, epochs, recipe):
    """Shades the epochs of every other image size and writes the sizes above, if they change."""
    groups = itertools.groupby(epochs, lambda epoch: recipe.image_size(epoch - 1))
    spans = [(f"{size} px", list(own)) for size, own in groups]
    if len(spans) == 1:
        return
    for _, own in spans[1::2]:
        axes.axvspan(own[0] - 0.5, own[-1] + 0.5, color=style.GREY, alpha=0.15, linewidth=0)
    above = axes.secondary_xaxis("top")
    above.set_xticks([np.mean(own) for _, own in spans], [size for size, _ in spans])
    above.tick_params(length=0)
    axes.set_xlabel("epoch; above: size of the training images")


@style.drawing
def predictions(images, probabilities, labels, class_names, title, path, columns=8):
    """Draws images in rows, each with its prediction and whether it is right.

    Args:
        images: Array [N, H, W, 3], values 0–255.
        probabilities: Array [N, classes].
        labels: Integers [N].
        class_names: List of strings.
        title: String.
        path: Path of the PNG file, or a file.
        columns: Integer, the images in a row.
    """
    rows = max(1, -(-len(images) // columns))
    figure, panels = style.subplots(rows, columns, (1.7 * columns, 2.1 * rows), squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes, image, scores, label in zip(panels.flat, images, probabilities, labels, strict=False):
        best = scores.argmax()
        truth = "right" if best == label else f"is {class_names[label]}"
        axes.imshow(np.clip(image, 0, 255).astype("uint8"), interpolation="nearest")
        axes.set_title(f"{class_names[best]} {scores[best]:.0%},\n{truth}", fontsize=8)
    figure.suptitle(title)
    style.save(figure, path)


def mistakes(scores, split, class_names, count, path):
    """Draws the mistakes with the highest probabilities.

    Args:
        scores: From `scores.evaluate`.
        split: What was evaluated, with `images` (0–255) and `labels`.
        class_names: List of strings.
        count: Integer, at most how many are drawn.
        path: Path of the PNG file, or a file.
    """
    chosen = surest_mistakes(scores, count)
    title = "Mistakes with the highest probabilities" if len(chosen) else "No mistakes"
    drawn = split.images[chosen], scores["probabilities"][chosen], split.labels[chosen]
    predictions(*drawn, class_names, title, path)


@style.drawing
def confusions(scores, class_names, path):
    """Draws how often the classes of the most frequent confusions are taken for each other.

    Args:
        scores: From `scores.evaluate`.
        class_names: List of strings.
        path: Path of the PNG file, or a file.
    """
    pairs = worst_confusions(scores, class_names)
    names = list(dict.fromkeys(name for label, taken, _ in pairs for name in (label, taken)))
    index = {class_names.index(name): place for place, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    for label, prediction in zip(scores["labels"], scores["predictions"], strict=True):
        if label in index and prediction in index:
            counts[index[label], index[prediction]] += 1
    right = np.eye(len(names), dtype=bool)
    wrong = np.where(right, 0, counts)
    figure, axes = style.subplots(1, 1, (8, 7))
    axes.imshow(wrong, cmap="Oranges")
    for place in zip(*np.nonzero(counts), strict=True):
        dark = wrong[place] > wrong.max() / 2
        color = style.GREY if right[place] else "white" if dark else "black"
        axes.text(*place[::-1], counts[place], ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="prediction", ylabel="label")
    axes.grid(False)
    axes.set_title("Images of the classes that are confused most; grey: right")
    style.save(figure, path)


@style.drawing
def learning_rates(rates, losses, suggested, path):
    """Draws the loss of a sweep by learning rate, and the suggested rate."""
    figure, axes = style.subplots(1, 1, (7, 4))
    axes.plot(rates, losses)
    axes.axvline(suggested, color=style.GREY, linestyle="--", label=f"suggested: {suggested:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.legend()
    style.save(figure, path)
