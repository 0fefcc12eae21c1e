"""The labels of class folders, where only the folders' names are known."""

from collections.abc import Iterable
from pathlib import Path

from timm.utils.misc import natural_key

from xpruner.errors import UsageError

NATURAL, ALPHABETICAL = "natural", "alphabetical"


def class_order(names: Iterable[str], order: str = NATURAL) -> list[str]:
    """Returns class names by label.

    Args:
        names: Of the folders.
        order: ``natural``, in which ``2`` comes before ``10``, as in timm; ``alphabetical``, as torchvision and
            datasets sort folders; or a text file with a name on each line.

    Raises:
        UsageError: If there is no such file, or its names differ from those of the folders.
    """
    found = sorted(names)
    if order == NATURAL:
        return sorted(found, key=natural_key)
    if order == ALPHABETICAL:
        return found
    path = Path(order)
    if not path.is_file():
        raise UsageError(
            f"data.class_order is {order!r}; it must be natural, alphabetical, or a text file with one class a line."
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if sorted(lines) != found:
        others = sorted(set(found) ^ set(lines)) or lines
        raise UsageError(
            f"The classes in {path} are not those of the data, such as {others[0]!r}, which must be once in both; "
            "correct the file."
        )
    return lines
