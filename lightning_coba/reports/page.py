"""What the pages of reports share: their tables and figures, how these look, and what escapes text."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import jinja2

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    reading: Mapping[str, str] = field(default_factory=dict)
    is_text: bool = False

    def only(self, columns: Sequence[str]) -> "PageTable":
        """Return the table with some of its columns."""
        kept = [i for i, name in enumerate(self.columns) if name in columns]
        rows = [[row[i] for i in kept] for row in self.rows]
        return PageTable(self.title, [self.columns[i] for i in kept], rows, self.caption)


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


def page_environment(autoescape: bool) -> jinja2.Environment:
    """Return where templates of pages are rendered; they may use ``show`` of ``block.html``.

    ``head.html`` begins a page, whose ``title`` must be set; the template closes the head.

    Args:
        autoescape: for HTML; in Markdown the filter ``md`` does it.
    """
    loader = jinja2.DictLoader({"head.html": _HEAD, "style.css": _STYLE, "block.html": _BLOCK})
    environment = jinja2.Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True, loader=loader)
    environment.undefined = jinja2.StrictUndefined
    environment.filters["md"] = plain_markdown
    environment.tests["table"] = lambda block: isinstance(block, PageTable)
    return environment


def plain_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is.

    Example:
        >>> plain_markdown("a|b <i> *x*")
        'a\\|b &lt;i> \\*x\\*'
    """
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
{% include "style.css" %}
</style>
"""

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #262626; background: #fff; max-width: 70rem; margin: 0 auto;
  padding: 1rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem;
  border-top: 2px solid #262626; padding-top: 1rem; } h3 { font-size: 1.05rem; margin: 2rem 0 .25rem; }
p { margin: .4rem 0; } .grey, figcaption { color: #5a5a5a; font-size: .9rem; }
.headline { font-size: 1.1rem; font-weight: 600; margin: .6rem 0; }
.note { border-left: 4px solid #e76300; padding: .3rem .8rem; background: #fdf5ec; margin: .5rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; margin: .4rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
thead th { border-bottom: 2px solid #6b6b6b; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: normal; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
.words th, .words td { text-align: left; white-space: normal; vertical-align: top; }
dl { font-size: .9rem; margin: .6rem 0; } dt { font-weight: 600; float: left; clear: left; margin-right: .5rem; }
dd { margin: 0 0 .3rem 0; } figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
@media (max-width: 600px) { th:first-child { white-space: normal; min-width: 5.5rem; max-width: 7rem;
  overflow-wrap: anywhere; } .words th:first-child { position: static; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { max-width: none; font-size: 10pt; } .wide { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; white-space: normal; } img { max-height: 165mm; }
  figure, tr, .note, .headline { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""

_BLOCK = """\
{% macro show(block) %}
{% if block is table %}
{% if block.title %}
<h3>{{ block.title }}</h3>
{% endif %}
{% if block.caption %}
<p class="grey">{{ block.caption }}</p>
{% endif %}
<div class="wide"><table{% if block.is_text %} class="words"{% endif %}>
<thead><tr>{% for name in block.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in block.rows %}
<tr>
{%- for cell in row -%}
{% if loop.first %}<th scope="row">{{ cell.text }}</th>
{%- elif cell.best %}<td><strong>{{ cell.text }}</strong></td>
{%- else %}<td>{{ cell.text }}</td>
{%- endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% if block.reading %}
<dl>
{% for name, words in block.reading.items() %}
<dt>{{ name }}</dt><dd>{{ words }}</dd>
{% endfor %}
</dl>
{% endif %}
{% else %}
<figure><img src="{{ block.data_uri }}" alt="{{ block.caption }}"><figcaption>{{ block.caption }}</figcaption></figure>
{% endif %}
{% endmacro %}
"""
