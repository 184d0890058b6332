"""Render an inspection of data as one HTML file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_coba.reports.page import PageFigure, PageTable, page_environment

if TYPE_CHECKING:
    from lightning_coba.inspection.inspecting import Inspection


def data_html(
    inspection: "Inspection",
    source: str,
    headline: Sequence[str],
    facts: str,
    blocks: Sequence[PageTable | PageFigure],
) -> str:
    """Return a page that needs no other file and no network; everything that comes from data is escaped.

    Args:
        inspection: What was found; its findings and examples are shown.
        source: Where the data lies.
        headline: The answer, in one or two sentences.
        facts: What the data was read with, in one line.
        blocks: Tables and figures in their order.
    """
    page = page_environment(autoescape=True).from_string(_HTML)
    shown = {"findings": inspection.findings, "examples": inspection.examples, "blocks": blocks}
    return page.render(source=source, headline=headline, facts=facts, **shown)


_HTML = """\
{% from "block.html" import show %}
{% set title = "Data of " ~ source %}
{% include "head.html" %}
<style>
.finding { border-left: 4px solid #94a4a2; padding: .3rem .8rem; margin: .5rem 0; background: #f7f7f7; }
.finding.error { border-color: #bd1f01; background: #fcf0ee; }
.finding.warning { border-color: #e76300; background: #fdf5ec; }
.finding code { color: #5a5a5a; font-size: .85rem; }
pre { white-space: pre-wrap; background: #f7f7f7; padding: .6rem .8rem; font-size: .85rem; margin: .2rem 0 1rem; }
.read { color: #6b6b6b; } .learned { color: #14532d; background: #d9f2df; font-weight: 600; }
.special { outline: 1px solid #a3a3a3; font-weight: 400; font-size: .75rem; padding: 0 .15rem; }
</style>
</head>
<body>
<h1>Data of {{ source }}</h1>
{% for sentence in headline %}
<p{% if loop.first %} class="headline"{% endif %}>{{ sentence }}</p>
{% endfor %}
<p class="grey">{{ facts }}</p>
{% if findings %}
<h2>Findings</h2>
<p class="grey">An error stops training; a warning makes it worse than it could be; a note is worth knowing.</p>
{% for finding in findings %}
<div class="finding {{ finding.level }}">
<strong>{{ finding.level | capitalize }}{% if finding.task %}, {{ finding.task }}{% endif %}.</strong>
{{ finding.what }}. <em>{{ finding.cure }}</em>
{% if finding.place %}
<br><code>{{ finding.place }}</code>
{% endif %}
</div>
{% endfor %}
{% endif %}
{% if blocks %}
<h2>Numbers</h2>
{% for block in blocks %}
{{ show(block) }}
{% endfor %}
{% endif %}
{% if examples %}
<h2>A row of each task, as the model reads it</h2>
<p class="grey">The training row of median length. Grey is read, <span class="learned">green is learned</span>, boxes
are special tokens.</p>
{% for example in examples %}
<h3>{{ example.task }}</h3>
<p class="grey">{{ example.place }}</p>
<pre>
{%- for piece in example.pieces -%}
<span class="{{ "learned" if piece.learned else "read" }}{{ " special" if piece.special }}">{{ piece.text }}</span>
{%- endfor -%}
</pre>
{% endfor %}
{% endif %}
</body>
</html>
"""
