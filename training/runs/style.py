"""The style of all plots. Drawing them changes nothing of matplotlib in the program around."""

from matplotlib import cycler, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Of Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, GREY = "#E69F00", "#56B4E9", "#666666"

# A decorator of each function that draws and saves a figure.
drawing = rc_context(
    {
        "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY]),
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "savefig.dpi": 110,
    }
)


def figure(size, layout=None):
    """Returns a figure of a size in inches, which needs no screen and opens no window."""
    return FigureCanvasAgg(Figure(size, layout=layout)).figure


def subplots(rows, columns, size, **options):
    """Returns a figure of a size in inches, and its panels."""
    drawn = figure(size, "constrained")
    return drawn, drawn.subplots(rows, columns, **options)


def save(figure, path):
    """Writes a figure as PNG to a path or a file."""
    figure.savefig(path)
