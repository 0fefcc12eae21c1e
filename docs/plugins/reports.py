"""A hook of mkdocs: the reports of the comparisons, which lie outside of docs/, become pages of the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
REPORTS = "benchmarks/results/compare/*/report/*"
OUTSIDE = re.compile(r"\]\(\.\./((?:\.\./)*benchmarks/results/compare/\w+/report/)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the reports and their plots, under the paths that they have in the repository."""
    for path in sorted(ROOT.glob(REPORTS)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lets links that leave docs/ for a report lead to its page."""
    return OUTSIDE.sub(r"](\1", markdown)
