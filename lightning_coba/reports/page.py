"""What all pages are made of: tables, figures, texts and sections, and the HTML page that they make."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jinja2

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table
    from rich.text import Text


class Cell(NamedTuple):
    """One number as text; `best` = the best of its row or column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class PageTable:
    """Hold a table whose first column names its rows.

    Attributes:
        title: of the table.
        columns: their names, the first that of the row names.
        rows: as many cells each as there are columns.
        caption: what the numbers are.
        reading: column -> what it means, for those that need words.
        is_text: whether the cells are words, to be aligned left.
        folded: what stands in the place of a long table until it is opened.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    reading: Mapping[str, str] = field(default_factory=dict)
    is_text: bool = False
    folded: str = ""

    @classmethod
    def of(cls, title: str, columns: Mapping[str, Sequence[str | Cell]], caption: str = "", **options: Any) -> Self:
        """Return a table from its columns by name, each with one text or cell per row."""
        cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in column] for column in columns.values()]
        return cls(title, list(columns), list(zip(*cells, strict=True)), caption, **options)

    def only(self, columns: Sequence[str]) -> Self:
        """Return the table with some of its columns."""
        kept = [i for i, name in enumerate(self.columns) if name in columns]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in kept], rows=rows)

    def on_screen(self, caption: str | None = None) -> "Table":
        """Return the table for a terminal, with a caption below."""
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text

        screen = Table(box=SIMPLE, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
        for place, name in enumerate(self.columns):
            header = Text("\n".join(name.rsplit(" ", 1)))  # numbers are narrower than their names
            screen.add_column(header, justify="right" if place else "left", no_wrap=place > 0, overflow="fold")
        for row in self.rows:
            screen.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        return screen


@dataclass(frozen=True)
class PageText:
    """Hold paragraphs under a title: where the numbers come from, and the like."""

    title: str
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class PageFigure:
    """Name a figure: its file beside the report, what it shows, and its bytes, which the HTML carries."""

    path: str
    caption: str
    png: bytes = field(repr=False)

    @classmethod
    def of(cls, figure: "Figure", path: str, caption: str) -> Self:
        """Draw a figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer)
        return cls(path, caption, buffer.getvalue())

    @property
    def data_uri(self) -> str:
        """The image as text."""
        from base64 import b64encode

        return "data:image/png;base64," + b64encode(self.png).decode()


#: What a section shows, one below the other.
PageBlock = PageTable | PageFigure | PageText


@dataclass(frozen=True)
class PageSection:
    """Hold one subject as a reader meets it: answer, warnings, numbers, pictures.

    Attributes:
        title: of the section; "" where it is the whole page.
        headline: the answer, one sentence each.
        facts: what it is about, in a line.
        notes: what to know before trusting it.
        blocks: tables, figures and texts in their order.
        anchor: its address in the page.
    """

    title: str
    headline: Sequence[str]
    facts: str = ""
    notes: Sequence[str] = ()
    blocks: Sequence[PageBlock] = ()
    anchor: str = ""

    def on_screen(self) -> list["Text"]:
        """Return the answer and the warnings for a terminal."""
        from rich.text import Text

        sentences = [Text(sentence, style="" if place else "bold") for place, sentence in enumerate(self.headline)]
        return [*sentences, *(Text(f"Note. {note}", style="yellow") for note in self.notes)]


def render_page(title: str, sections: Sequence[PageSection], begin: str = "") -> str:
    """Return one HTML page that needs no other file and no network; everything that it is given is escaped."""
    return render("page.html", title=title, sections=sections, begin=begin)


def render(template: str, **given: Any) -> str:
    """Return what a file of ``templates/`` makes of values: HTML is escaped, in Markdown the filter ``md`` does it.

    ``page.html`` is what all pages begin with, and ``block.html`` what they show tables, figures and sections with.
    """
    return _environment().get_template(template).render(**given)


def block_html(block: PageBlock) -> str:
    """Return a table, figure or text as a fragment of HTML."""
    return str(_environment().get_template("block.html").module.show(block))  # type: ignore[attr-defined]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_coba.reports"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = plain_markdown
    environment.tests["table"] = lambda block: isinstance(block, PageTable)
    environment.tests["text"] = lambda block: isinstance(block, PageText)
    return environment


def plain_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is.

    Example:
        >>> plain_markdown("a|b <i> *x*")
        'a\\|b &lt;i> \\*x\\*'
    """
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")
