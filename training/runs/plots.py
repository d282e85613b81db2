"""Pictures of a run, drawn without a screen."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

PANELS = (
    ("cross-entropy", (("loss", "training"), ("val_loss", "held out"))),
    ("top-1", (("top1", "training"), ("val_top1", "held out"))),
    ("learning rate", (("learning_rate", None),)),
)


def curves(rows, title, path):
    """Draws loss, top-1 and learning rate of a history's rows, by epoch."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(12, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    marker = "." if len(rows) < 40 else ""
    for axes, (name, lines) in zip(panels, PANELS, strict=True):
        for key, label in lines:
            axes.plot(epochs, [row[key] for row in rows], marker=marker, label=label)
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if lines[0][1]:
            axes.legend()
    panels[1].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def image_grid(images, captions, title, path, columns=8):
    """Draws images [N, H, W, 3], values 0–255, in rows with a caption each."""
    rows = max(1, -(-len(images) // columns))
    figure, panels = plt.subplots(
        rows, columns, figsize=(1.7 * columns, 2.1 * rows), layout="constrained", squeeze=False
    )
    for axes in panels.flat:
        axes.axis("off")
    for axes, image, caption in zip(panels.flat, images, captions, strict=False):
        axes.imshow(np.clip(image, 0, 255).astype("uint8"), interpolation="nearest")
        axes.set_title(caption, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
