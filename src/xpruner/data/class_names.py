"""Matches the classes of data and model: the same names in another order are mapped, others are refused."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xpruner.data.sources import Source
from xpruner.errors import UsageError

log = logging.getLogger("xpruner")

SYNSET = re.compile(r"n\d{8}")
"""WordNet's codes of ImageNet's classes, which cannot be compared with words."""
SHOWN = 3
"""Missing names listed in a message, at most."""


@dataclass(frozen=True)
class Classes:
    """The classes of a classifier.

    Attributes:
        count: Outputs.
        names: Of the outputs in order; None where the model does not know them.
    """

    count: int
    names: tuple[str, ...] | None = None


def match(sources: Sequence[Source], classes: Classes, dataset: str) -> list[str]:
    """Gives the images of all sources the labels that a model has for their classes, in place; returns the names.

    Args:
        sources: The training images, then any others with the same classes.
        classes: Of the model.
        dataset: Its name, for messages.

    Raises:
        UsageError: If the model has other classes, or another number of them.
    """
    found = sources[0].class_names
    names = found or [str(label) for label in range(int(sources[0].labels.max()) + 1)]
    if classes.names is not None and found is not None and _comparable(found, classes.names):
        order = mapping(found, classes.names, dataset)
        if order != list(range(len(order))):
            log.info(
                "The classes of %s are in another order than the model's; their labels are mapped by name.", dataset
            )
        for source in sources:
            source.labels = np.array(order)[source.labels]
            source.class_names = list(classes.names)
        return list(classes.names)
    if classes.count != len(names):
        raise UsageError(
            f"The model has {classes.count} classes but the data have {len(names)}: "
            f"{likely_cause(sources[0])}give a model whose classifier was trained on these classes."
        )
    return list(classes.names) if found is None and classes.names is not None else names


def mapping(names: Sequence[str], wanted: Sequence[str], dataset: str) -> list[int]:
    """Returns for each of the data's classes the label that the model has for it.

    Case, spaces, hyphens and underscores are ignored.

    Raises:
        UsageError: If the names are not the same set; the first that one side lacks are named.
    """
    for key in (str, _plain):
        here, there = [key(name) for name in names], [key(name) for name in wanted]
        if here == there:
            return list(range(len(names)))
        if sorted(here) == sorted(set(there)):
            return [there.index(name) for name in here]
    missing = [name for name in wanted if _plain(name) not in set(map(_plain, names))]
    strange = [name for name in names if _plain(name) not in set(map(_plain, wanted))]
    parts = [f"the data lack {_listed(missing)}"] if missing else []
    parts += [f"the model lacks {_listed(strange)}"] if strange else []
    raise UsageError(
        f"The classes of {dataset!r} are not those of the model: {' and '.join(parts) or 'some names are repeated'}; "
        "give images of the model's classes in folders of their names, or another model."
    )


def likely_cause(source: Source) -> str:
    """Returns why data may have another number of classes than the model, with a remedy; empty if unknown."""
    if source.class_names is None and not (source.labels == 0).any():
        return "no image has label 0, so the labels may start at 1 where they must start at 0: correct them, or "
    if source.found.empty:
        return f"no image is read of {_listed(list(source.found.empty))}: add some, or "
    return ""


def _comparable(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Returns whether names can be compared: numbers and WordNet's codes cannot be compared with words."""
    kinds = []
    for group in (names, wanted):
        codes = all(SYNSET.fullmatch(name) for name in group)
        kinds.append("code" if codes else "number" if all(name.isdecimal() for name in group) else "word")
    return kinds[0] == kinds[1]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")


def unique_names(names: Sequence[str]) -> list[str]:
    """Returns names that are all different: a name that several classes share gets the number of the class."""
    counts = Counter(names)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(names)]
