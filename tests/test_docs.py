"""What the documents link to, import and refer to is there, and the site builds without a warning."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(document.relative_to(ROOT) for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"""\]\(([^)\s]+)|(?:src|href)="([^"]+)""")
PYTHON = re.compile(r"^( *)```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
ELSEWHERE = re.compile(r"""<(?:script|img|iframe|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//[^"]+""")
REFERENCE = re.compile(r"^::: (\S+)$", re.MULTILINE)


def relative_links(text: str) -> list[str]:
    """Returns the targets of Markdown and HTML links, less those to other sites and to headings of the same page."""
    targets = (markdown or html for markdown, html in LINK.findall(CODE.sub("", text)))
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


def read(document: Path) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    """Returns the Python of a document's code blocks, without the indentation of those in a list."""
    return [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, code in PYTHON.findall(text)]


def imports(code: str) -> list[tuple[str, str | None]]:
    """Returns the modules of xpruner that code imports, each with the name it takes; ``xpruner.x`` counts as one."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "xpruner":
            found.append(("xpruner", node.attr))
    return [(module, name) for module, name in found if module.split(".")[0] == "xpruner"]


def exists(path: str) -> bool:
    """Returns whether a dotted path names a module, or an attribute of one."""
    module, rest = path.split("."), []
    while module:
        try:
            found = import_module(".".join(module))
        except ModuleNotFoundError:
            rest.insert(0, module.pop())
            continue
        for name in rest:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


BLOCKS = [code for document in DOCUMENTS for code in python_blocks(read(document))]
USED = sorted({used for code in BLOCKS for used in imports(code)}, key=str)
PAGES = [document for document in DOCUMENTS if document.parts[:2] == ("docs", "api")]
REFERENCES = sorted({name for page in PAGES for name in REFERENCE.findall(read(page))})


def test_relative_links_are_found():
    text = 'a [b](c/d.md#e "f") ![g](h.png) <img src="i.svg"> [j](https://k.org) [l](#m) `n[o](p)`\n```\nq[r](s)\n```\n'
    assert relative_links(text) == ["c/d.md", "h.png", "i.svg"]


def test_imports_are_found_in_python_blocks_alone():
    text = "1. a\n\n    ```python\n    import xpruner\n    from xpruner.data import b\n    xpruner.c(d.e)\n    ```\n"
    text += "```yaml\nimport: f\n```\n"
    (code,) = python_blocks(text)
    assert imports(code) == [("xpruner", None), ("xpruner.data", "b"), ("xpruner", "c")]


def test_a_name_that_is_missing_does_not_exist():
    assert exists("xpruner.plan.budget.Budget.parse")
    assert not exists("xpruner.plan.budget.Budgets")
    assert not exists("xpruner.plans.Budget")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_relative_link_resolves(document):
    folder = (ROOT / document).parent
    assert [link for link in relative_links(read(document)) if not (folder / link).exists()] == []


def test_the_documents_have_python_and_the_reference_has_names():
    assert len(USED) > 20
    assert len(REFERENCES) > 40


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_code_imports_from_xpruner_and_its_packages_alone(document):
    found = [used for code in python_blocks(read(document)) for used in imports(code)]
    deep = [module for module, _ in found if module.count(".") > 1]
    private = [name for _, name in found if name and name.startswith("_")]
    assert deep + private == []


@pytest.mark.parametrize(("module", "name"), USED)
def test_what_code_imports_exists(module, name):
    assert exists(f"{module}.{name}" if name else module)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_name_in_the_api_reference_exists(name):
    assert exists(name)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed; pip install -e '.[docs]'")
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert built.returncode == 0, built.stderr
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")]
    assert len(pages) > 15
    assert [found for page in pages for found in ELSEWHERE.findall(page)] == []
