"""What every figure begins with: an empty sheet, and names that leave room for the panels."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine


def sheet(width: float, height: float, pad: float = 0.1) -> Figure:
    """Return a figure without pyplot's state, in inches, that lays itself out."""
    layout = ConstrainedLayoutEngine(h_pad=pad, w_pad=pad)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def shortened(name: str, longest: int = 24) -> str:
    """Cut the middle out of a name that would push the panel aside.

    Example:
        >>> shortened("a_task_with_a_long_name", longest=12)
        'a_tas…g_name'
    """
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
