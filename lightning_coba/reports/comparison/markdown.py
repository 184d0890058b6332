"""A comparison as Markdown, with the figures as files beside it."""

import re
from collections.abc import Sequence

from lightning_coba.reports.page import PageSection, page_environment

#: What stands above all comparisons.
BEGIN = "Test numbers are on the test split. Weights were steered, and checkpoints chosen, on the validation split."


def render_markdown(title: str, sections: Sequence[PageSection]) -> str:
    """Return a page of sections as Markdown; everything that comes from runs is escaped."""
    text = page_environment(autoescape=False).from_string(_MARKDOWN).render(title=title, sections=sections, begin=BEGIN)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


_MARKDOWN = """\
# {{ title }}

{{ begin }}

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
