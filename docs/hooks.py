"""What mkdocs does beyond Markdown: formulas become MathML, and linked files of the repository come along.

The site needs nothing from the network, and the same pages read well where the repository is browsed.
"""

import os
import posixpath
import re
import subprocess
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: Pages made of files that lie beside the folder of pages; who reads the README there, reads the first page here.
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES = ROOT_PAGES | {"README.md": "index.md"}
#: Where the other files of the repository that a page links to lie in the site.
COPIES = "files"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
#: LaTeX that converters of web pages know and latex2mathml does not.
REPLACED = {r"\arg": r"\operatorname{arg}", r"\Big\|": r"\|", "{aligned}": "{align*}"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the installed version beside the name, and link the repository that the working copy was cloned from."""
    config.site_name = f"{config.site_name} {version('lightning-coba')}"
    asked = subprocess.run(["git", "remote", "get-url", "origin"], capture_output=True, text=True, check=False)
    address = os.environ.get("REPOSITORY_URL") or re.sub(r"^git@([^:]+):", r"https://\1/", asked.stdout.strip())
    if address.startswith("https://"):
        config.repo_url = address.removesuffix(".git")
        config.repo_name = posixpath.basename(config.repo_url)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made of files of the repository, and every file of it that a page links to."""
    root = Path(config.docs_dir).parent
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(root / name).read_text(encoding="utf-8")))
    for file in files.documentation_pages():
        for target in LINK.findall(file.content_string):
            path, address = in_site(target, file.src_uri)
            if address.startswith(COPIES) and address not in files.src_uris and (root / path).is_file():
                files.append(File.generated(config, address, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository at where they lie in the site."""
    here = posixpath.dirname(page.file.src_uri) or "."

    def moved(match: re.Match[str]) -> str:
        _, address = in_site(match[1], page.file.src_uri)
        return posixpath.relpath(address, here) if address in files.src_uris else match[1]

    return LINK.sub(moved, markdown)


def in_site(target: str, page: str) -> tuple[str, str]:
    """Return where a page's link leads in the repository, and where that lies in the site; "" for other addresses."""
    if ":" in target:
        return "", ""
    folder = "" if page in ROOT_PAGES.values() else posixpath.join("docs", posixpath.dirname(page))
    path = posixpath.normpath(posixpath.join(folder, target))
    return path, PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}")


def on_page_content(html: str, page: Page, **kwargs: Any) -> str:
    """Turn each formula into MathML."""
    return FORMULA.sub(lambda match: mathml(match[2], page.file.src_uri), html)


def mathml(source: str, where: str) -> str:
    r"""Return MathML for ``\(...\)`` or ``\[...\]``; LaTeX that is not understood stops the build."""
    block = source.startswith(r"\[")
    latex = unescape(source)[2:-2].strip()
    for known, replacement in REPLACED.items():
        latex = latex.replace(known, replacement)
    converted = convert(latex, display="block" if block else "inline")
    if re.search(r">\\|<mi>&(amp;)?</mi>", converted):
        raise PluginError(f"{where}: a formula holds LaTeX that latex2mathml does not know: {latex}")
    return f'<div class="formula">{converted}</div>' if block else converted
