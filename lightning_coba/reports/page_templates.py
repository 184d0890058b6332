"""The templates of all pages: how they begin, look, and show their parts."""

HEAD = """\
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

STYLE = """\
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

BLOCK = """\
{% macro show(block) %}
{% if block is table %}
{% if block.title %}
<h3>{{ block.title }}</h3>
{% endif %}
{% if block.caption %}
<p class="grey">{{ block.caption }}</p>
{% endif %}
{% if block.folded %}
<details><summary>{{ block.folded }}</summary>
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
{% if block.folded %}
</details>
{% endif %}
{% if block.reading %}
<dl>
{% for name, words in block.reading.items() %}
<dt>{{ name }}</dt><dd>{{ words }}</dd>
{% endfor %}
</dl>
{% endif %}
{% elif block is text %}
<h3>{{ block.title }}</h3>
{% for paragraph in block.paragraphs %}
<p class="grey">{{ paragraph }}</p>
{% endfor %}
{% else %}
<figure><img src="{{ block.data_uri }}" alt="{{ block.caption }}"><figcaption>{{ block.caption }}</figcaption></figure>
{% endif %}
{% endmacro %}
"""

PAGE = """\
{% from "block.html" import show %}
{% include "head.html" %}
</head>
<body>
<h1>{{ title }}</h1>
{% if begin %}
<p class="grey">{{ begin }}</p>
{% endif %}
{% if sections | length > 1 %}
<nav><ul>
{% for section in sections %}
<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
{% endif %}
{% for section in sections %}
<section id="{{ section.anchor }}">
{% if section.title %}
<h2>{{ section.title }}</h2>
{% endif %}
{% for sentence in section.headline %}
<p{% if loop.first %} class="headline"{% endif %}>{{ sentence }}</p>
{% endfor %}
{% if section.facts %}
<p class="grey">{{ section.facts }}</p>
{% endif %}
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
