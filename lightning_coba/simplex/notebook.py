"""A view in a notebook: an output below the cell that is drawn again in place, and the HTML that goes into it."""

import io
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from lightning_coba.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class NotebookOutput:
    """An output of a notebook's cell whose contents can be replaced.

    Raises:
        ModuleNotFoundError: IPython is not installed, so this is no notebook.
    """

    def __init__(self) -> None:
        try:
            from IPython.display import HTML, display
        except ModuleNotFoundError:
            raise MissingPackageError(
                "The live view needs a notebook.", "Type: pip install -c constraints.txt 'lightning-coba[notebook]'"
            ) from None
        self._html: Callable[[str], Any] = HTML
        self._display = display
        self._handle: Any = None

    def show(self, html: str) -> None:
        """Put HTML in the place of what was shown before."""
        if self._handle is None:
            self._handle = self._display(self._html(html), display_id=True)
        else:
            self._handle.update(self._html(html))


def notebook_html(headline: str, sections: Iterable[tuple[str, Sequence["Figure"]]]) -> str:
    """Return a fragment of HTML: a line of text, then each section's table (HTML) and its figures side by side."""
    parts = [f"<p><b>{escape(headline)}</b></p>"]
    for table, figures in sections:
        images = "\n".join(_image(figure) for figure in figures)
        parts += [table, f'<div style="display: flex; flex-wrap: wrap">\n{images}\n</div>']
    return "\n".join(parts)


def html_table(title: str, columns: Mapping[str, Sequence[str]]) -> str:
    r"""Return a table of texts, whose first column names the rows.

    Example:
        >>> html_table("", {"task": ["code"], "weight": ["0.5"]})
        '<table>\n<tr><th>task</th><th>weight</th></tr>\n<tr><th>code</th><td>0.5</td></tr>\n</table>'
    """
    lines = ["".join(f"<th>{escape(name)}</th>" for name in columns)]
    for name, *cells in zip(*columns.values(), strict=True):
        lines.append(f"<th>{escape(name)}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells))
    heading = [f"<h3>{escape(title)}</h3>"] if title else []
    return "\n".join([*heading, "<table>", *(f"<tr>{line}</tr>" for line in lines), "</table>"])


def _image(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    data = b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" style="flex: 1 1 24rem; min-width: 0; max-width: 44rem">'
