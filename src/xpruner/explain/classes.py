"""Finds the classes that a user names."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from xpruner.data.class_names import unique_names
from xpruner.errors import UsageError, unknown


def find_class(name: str, class_names: Sequence[str]) -> int:
    """Returns the label of a class, which is given by name or by number.

    Raises:
        UsageError: If there is none, with the nearest; or several have the name, with their numbers.
    """
    labels = [label for label, known in enumerate(class_names) if known == name]
    if len(labels) > 1:
        numbers = f"{', '.join(map(str, labels[:-1]))} and {labels[-1]}"
        raise UsageError(f"{len(labels)} classes are called {name!r}, those of numbers {numbers}; give a number.")
    labels = labels or [label for label, known in enumerate(unique_names(class_names)) if known == name]
    if labels:
        return labels[0]
    if re.fullmatch("[0-9]+", name) and int(name) < len(class_names):
        return int(name)
    raise unknown("class", name, class_names)


def find_classes(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Returns the labels of classes, given by name or by number.

    Names with commas may have been cut at these: where some are unknown as they are, they are put together again.

    Args:
        names: Of the classes, or their parts between commas.
        class_names: Of all classes, by label.

    Raises:
        UsageError: If there is no such class, or parts can be put together in several ways.
    """
    try:
        return [find_class(name, class_names) for name in names]
    except UsageError as error:
        cut = {tuple(part.strip() for part in name.split(",")): name for name in class_names if "," in name}
        readings = list(_readings(tuple(names), cut, class_names)) if cut else []
        if len(readings) == 1:
            return readings[0]
        if len(names) == 1 or not cut:
            raise
        why = "there are several ways to put them together" if readings else f"{error}".rstrip("?.")
        example = json.dumps(list(cut.values())[:2], ensure_ascii=False)
        raise UsageError(
            f"The classes {', '.join(names)} cannot be split at their commas ({why}); write names with commas as a "
            f"list in brackets, such as '{example}'."
        ) from error


def _readings(
    parts: tuple[str, ...], cut: Mapping[tuple[str, ...], str], class_names: Sequence[str]
) -> Iterator[list[int]]:
    """Yields the labels in every way in which parts can be put together to names, given those that were cut."""
    if not parts:
        yield []
    for count in range(1, len(parts) + 1):
        name = cut.get(parts[:count], parts[0] if count == 1 else None)
        if name is not None and _is_class(name, class_names):
            for rest in _readings(parts[count:], cut, class_names):
                yield [find_class(name, class_names), *rest]


def _is_class(name: str, class_names: Sequence[str]) -> bool:
    try:
        find_class(name, class_names)
    except UsageError:
        return False
    return True
