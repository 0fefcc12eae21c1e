"""How names from outside stand in the figures: as they are, short enough, and distinct where they have to be."""

import html
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from xpruner.text import printable

MOST_LETTERS = 28


def text(name: str) -> str:
    """Returns a name as it stands; plotly takes < and & for markup."""
    return html.escape(printable(name), quote=False)


def short(name: str) -> str:
    """Returns a name that fits beside a figure."""
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def shortened(keys: Sequence[str]) -> list[str]:
    """Returns names of layers without what all begin with, where they would take too much room with it."""
    if max(map(len, keys)) <= MOST_LETTERS:
        return list(keys)
    paths = [key.split(".") for key in keys]
    levels = zip(*(path[:-1] for path in paths), strict=False)
    alike = len(list(takewhile(lambda names: len(set(names)) == 1, levels)))
    return [f"…{'.'.join(path[alike:])}" for path in paths] if alike else list(keys)


def distinct(words: Iterable[str]) -> list[str]:
    """Returns words with numbers behind those that repeat, as a category may stand on an axis once only."""
    seen: dict[str, int] = {}
    found = []
    for word in words:
        seen[word] = seen.get(word, 0) + 1
        found.append(word if seen[word] == 1 else f"{word} ({seen[word]})")
    return found


def named(names: Sequence[str]) -> dict[str, Any]:
    """Returns an axis on which these names stand from 0 on, with room for them."""
    return {"tickvals": list(range(len(names))), "ticktext": [text(name) for name in names], "automargin": True}
