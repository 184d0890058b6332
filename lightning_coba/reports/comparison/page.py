"""Render a report of comparisons as Markdown and as one HTML file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_coba.reports.page import PageFigure, PageTable, page_environment


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
    return page_environment(autoescape=True).from_string(_HTML).render(sections=sections)


def render_markdown(sections: Sequence[PageSection]) -> str:
    """Return the same page as Markdown, with the figures as files beside it."""
    text = page_environment(autoescape=False).from_string(_MARKDOWN).render(sections=sections)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


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
{% from "block.html" import show %}
{% set title = "Comparison of runs" %}
{% include "head.html" %}
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
{{ show(block) }}
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
