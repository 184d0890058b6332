"""What every figure begins with: an empty sheet."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine


def sheet(width: float, height: float, pad: float = 0.1) -> Figure:
    """Return a figure without pyplot's state, in inches, that lays itself out."""
    layout = ConstrainedLayoutEngine(h_pad=pad, w_pad=pad)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure
