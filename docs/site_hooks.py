"""Hooks of mkdocs: the site also has pages from outside ``docs``, and links work there and in the repository alike."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import make_demo
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.site")
ROOT = Path(__file__).parent.parent
PAGES = ("RESULTS.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md", "LICENSE-WEIGHTS.md")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def outside() -> dict[str, str]:
    """Pages from outside ``docs``: path in the repository, and path on the site."""
    cards = sorted((ROOT / "model_cards").glob("*/README.md"))
    return {name: name for name in PAGES} | {
        f"model_cards/{card.parent.name}/README.md": f"model_cards/{card.parent.name}.md" for card in cards
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs``."""
    for source, page in outside().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text = notebook_as_markdown(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    return files


def notebook_as_markdown(notebook: dict[str, Any], name: str) -> str:
    """A notebook's text, code and outputs as a page, with a link to the file."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", ()):
            data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
            if "image/png" in data:
                parts.append(
                    f'<img alt="Output of the code above" src="data:image/png;base64,{data["image/png"].strip()}">'
                )
            elif "text/markdown" in data:
                parts.append(data["text/markdown"])
            else:
                parts.append(f"```text\n{''.join(output.get('text', data.get('text/plain', ''))).rstrip()}\n```")
    parts.insert(1, f"[Download this notebook]({name}){{ download }}")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Resolve relative links as they are in the repository, and point them at the pages of the site.

    A link to a file of the repository that the site does not have becomes its text; one to a file that does not exist
    is left as it is, for mkdocs to report.
    """
    pages = outside()
    here = page.file.src_uri
    source = next((path for path, uri in pages.items() if uri == here), f"docs/{here}")

    def on_site(link: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / link["target"]).replace(os.sep, "/")
        uri = pages.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(uri) is not None:
            relative = os.path.relpath(uri, PurePosixPath(here).parent).replace(os.sep, "/")
            return f"{link['image']}[{link['text']}]({relative}{link['anchor'] or ''})"
        return link["text"] if (ROOT / target).exists() else link[0]

    return LINK.sub(on_site, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings have roles of reStructuredText (``:func:`name```), of which the name is enough."""
    return re.sub(r":(?:func|class|meth|mod|data|attr):(?=<code>)", "", html)


def on_post_build(config: MkDocsConfig) -> None:
    """Complete the browser demo by the model and the runtime, where npm has installed that."""
    if make_demo.installed():
        make_demo.build(Path(config.site_dir) / "demo")
    else:
        log.info("The browser demo is incomplete; for onnxruntime-web run: %s", make_demo.INSTALL)
