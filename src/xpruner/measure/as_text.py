"""Figures as plain text: amounts with a prefix, rows in aligned columns."""

from collections.abc import Sequence

PREFIXES = {"G": 1e9, "M": 1e6, "k": 1e3}


def amount(number: float) -> str:
    """Returns an amount of MACs or parameters with two decimals and a prefix, such as ``4.61 G``; small ones whole."""
    for prefix, factor in PREFIXES.items():
        if number >= factor:
            return f"{number / factor:.2f} {prefix}"
    return f"{number:.0f}"


def percent(share: float) -> str:
    """Returns a share, 0 to 1, as ``50.0 %``."""
    return f"{100 * share:.1f} %"


def aligned(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Returns rows as lines with aligned columns, two spaces apart.

    Args:
        rows: Of as many cells each; the first holds the headings.
        names: How many of the first columns hold names, aligned left; the others hold figures, aligned right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
