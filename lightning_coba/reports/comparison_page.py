"""Render a report of comparisons as Markdown and as one HTML file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import jinja2

from lightning_coba.reports.comparison_tables import PageTable


@dataclass(frozen=True)
class PageFigure:
    """Name a figure: its file beside the report, what it shows, and its bytes, which the HTML carries."""

    path: str
    caption: str
    png: bytes = field(repr=False)

    @property
    def data_uri(self) -> str:
        """The image as text."""
        from base64 import b64encode

        return "data:image/png;base64," + b64encode(self.png).decode()


@dataclass(frozen=True)
class PageSection:
    """Hold one comparison as a reader meets it: answer, warnings, numbers, pictures.

    Attributes:
        title: of the section.
        anchor: its address in the page.
        facts: what was compared, in a line.
        headline: the answer, a sentence each.
        notes: what to know before trusting it.
        blocks: tables and figures in their order.
    """

    title: str
    anchor: str
    facts: str
    headline: Sequence[str]
    notes: Sequence[str]
    blocks: Sequence[PageTable | PageFigure]


def render_html(sections: Sequence[PageSection]) -> str:
    """Return one page that needs no other file and no network; everything that comes from runs is escaped."""
    return _environment(autoescape=True).from_string(_HTML).render(sections=sections)


def render_markdown(sections: Sequence[PageSection]) -> str:
    """Return the same page as Markdown, with the figures as files beside it."""
    text = _environment(autoescape=False).from_string(_MARKDOWN).render(sections=sections)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def plain_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is.

    Example:
        >>> plain_markdown("a|b <i> *x*")
        'a\\|b &lt;i> \\*x\\*'
    """
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _environment(autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters["md"] = plain_markdown
    environment.tests["table"] = lambda block: isinstance(block, PageTable)
    return environment


_MARKDOWN = """\
# Comparison of runs

Test numbers are on the test split. Weights were steered, and checkpoints chosen, on the validation split.

{% if sections | length > 1 %}
{% for section in sections %}
- [{{ section.title | md }}](#{{ section.anchor }})
{% endfor %}
{% endif %}

{% for section in sections %}
<a id="{{ section.anchor }}"></a>

## {{ section.title | md }}

{% for sentence in section.headline %}
{{ "**" ~ (sentence | md) ~ "**" if loop.first else sentence | md }}

{% endfor %}
{{ section.facts | md }}

{% for note in section.notes %}
> **Note.** {{ note | md }}

{% endfor %}
{% for block in section.blocks %}
{% if block is table %}
### {{ block.title | md }}

{{ block.caption | md }}

|{% for name in block.columns %} {{ name | md }} |{% endfor %}

|{% for name in block.columns %}{{ " --- |" if loop.first or block.is_text else " ---: |" }}{% endfor %}

{% for row in block.rows %}
|{% for cell in row %} {{ "**" ~ (cell.text | md) ~ "**" if cell.best else cell.text | md }} |{% endfor %}

{% endfor %}

{% for name, words in block.reading.items() %}
- **{{ name | md }}**: {{ words | md }}
{% endfor %}
{% else %}
![{{ block.caption | md }}]({{ block.path }})

*{{ block.caption | md }}*
{% endif %}

{% endfor %}
{% endfor %}
"""

_HTML = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of runs</title>
<style>
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
tbody th { font-weight: normal; } th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
.words th, .words td { text-align: left; white-space: normal; vertical-align: top; }
dl { font-size: .9rem; margin: .6rem 0; } dt { font-weight: 600; float: left; clear: left; margin-right: .5rem; }
dd { margin: 0 0 .3rem 0; } figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
@media (max-width: 600px) { th:first-child { white-space: normal; max-width: 7rem; overflow-wrap: anywhere; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { max-width: none; font-size: 10pt; } .wide { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding: .15rem .3rem; white-space: normal; } img { max-height: 165mm; }
  figure, tr, .note, .headline { break-inside: avoid; } h2, h3 { break-after: avoid; } }
</style>
</head>
<body>
<h1>Comparison of runs</h1>
<p class="grey">Test numbers are on the test split. Weights were steered, and checkpoints chosen, on the validation
split.</p>
{% if sections | length > 1 %}
<nav><ul>
{% for section in sections %}
<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
{% endif %}
{% for section in sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% for sentence in section.headline %}
<p{% if loop.first %} class="headline"{% endif %}>{{ sentence }}</p>
{% endfor %}
<p class="grey">{{ section.facts }}</p>
{% for note in section.notes %}
<p class="note"><strong>Note.</strong> {{ note }}</p>
{% endfor %}
{% for block in section.blocks %}
{% if block is table %}
<h3>{{ block.title }}</h3>
<p class="grey">{{ block.caption }}</p>
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
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
