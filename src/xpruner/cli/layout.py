"""Tables as a terminal shows them: names fold first, figures are never cut, and columns without room follow below."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Table

from xpruner.text import printable

NAME = 8
"""Characters that a name keeps in a line at least; the rest folds."""
BETWEEN = 3
"""Characters that a table has between two columns, and one more at its edge."""


def laid_out(table: Table, width: int) -> Iterator[Table]:
    """Yields a table in as many parts, each with its first column, as it takes to be no wider than ``width``.

    Only a column with figures wider than that makes a part wider. Whatever stands in the table is made printable.

    Args:
        table: Its first column holds names, the others figures or lists; cells are text.
        width: Characters of a line.
    """
    columns = [[printable(str(text)) for text in (column.header, *column.cells)] for column in table.columns]
    least = [max(cell_len(word) for text in texts for word in (text.split() or [""])) for texts in columns]
    least[0] = min(least[0], NAME)
    for chosen in _parts(least, width):
        widths = _shrunk([columns[i] for i in chosen], [least[i] for i in chosen], width)
        part = Table(title=printable(str(table.title)) if table.title else None, box=table.box)
        for i, room in zip(chosen, widths, strict=True):
            justify = table.columns[i].justify
            part.add_column(columns[i][0], justify=justify, width=room, overflow="fold")
        for number, row in enumerate(table.rows, 1):
            part.add_row(*(columns[i][number] for i in chosen), end_section=row.end_section)
        yield part


def _parts(least: Sequence[int], width: int) -> list[list[int]]:
    """Returns which columns stand together: the first in every part, the others in the first part that has room."""
    parts = [[0]]
    for place, needed in enumerate(least[1:], 1):
        if len(parts[-1]) > 1 and _total([*(least[i] for i in parts[-1]), needed]) > width:
            parts.append([0])
        parts[-1].append(place)
    return parts


def _shrunk(columns: Sequence[Sequence[str]], least: Sequence[int], width: int) -> list[int]:
    """Returns the widths of columns: their own, less what is too much, taken from the names first."""
    widths = [max(map(cell_len, texts)) for texts in columns]
    others = sorted(range(1, len(widths)), key=lambda i: least[i] - widths[i])
    for place in [0, *others]:
        excess = max(0, _total(widths) - width)
        widths[place] -= min(excess, max(0, widths[place] - least[place]))
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + BETWEEN * len(widths) + 1
