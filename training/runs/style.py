"""The style of all plots, which are drawn without a screen."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, GREY = "#E69F00", "#56B4E9", "#666666"

plt.rcParams.update(
    {
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY]),
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "savefig.dpi": 110,
    }
)


def save(figure, path):
    """Writes a figure and closes it."""
    figure.savefig(path)
    plt.close(figure)
