"""Every relative link in the documents leads to a file that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(document.relative_to(ROOT) for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"""\]\(([^)\s]+)|(?:src|href)="([^"]+)""")


def relative_links(text: str) -> list[str]:
    """Returns the targets of Markdown and HTML links, less those to other sites and to headings of the same page."""
    targets = (markdown or html for markdown, html in LINK.findall(CODE.sub("", text)))
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def test_relative_links_are_found():
    text = 'a [b](c/d.md#e "f") ![g](h.png) <img src="i.svg"> [j](https://k.org) [l](#m) `n[o](p)`\n```\nq[r](s)\n```\n'
    assert relative_links(text) == ["c/d.md", "h.png", "i.svg"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_relative_link_resolves(document):
    path = ROOT / document
    missing = [link for link in relative_links(path.read_text(encoding="utf-8")) if not (path.parent / link).exists()]
    assert missing == []
