"""An overview of a run's data and preprocessing in one line, in which mistakes show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from xpruner.data.splits import Splits

SHOWN = 6
"""Class names in the line, at most."""


def overview(data: Splits) -> dict[str, Any]:
    """Returns what was found, as JSON values.

    ``classes`` by label, ``images`` of each part, ``fewest`` and ``most`` training images of a class with its name,
    ``read`` and ``left_out`` files by kind, ``unreadable`` images, and ``input``, how images are prepared.
    """
    readers = list({id(part.reader): part.reader for part in data.parts.values()}.values())
    counts = class_counts(data)["training"]
    extremes = {"fewest": counts.index(min(counts)), "most": counts.index(max(counts))}
    return {
        "classes": list(data.class_names),
        "images": {name: len(part) for name, part in data.parts.items()},
        **{name: [data.class_names[label], counts[label]] for name, label in extremes.items()},
        "read": _summed([reader.source.found.read for reader in readers]),
        "left_out": _summed([reader.source.found.left_out for reader in readers]),
        "unreadable": sum(reader.unreadable for reader in readers),
        "input": data.train.spec.to_dict(),
    }


def class_counts(data: Splits) -> dict[str, list[int]]:
    """Returns for each part of the data how many images each class has, by label."""
    return {name: part.labels.bincount(minlength=data.num_classes).tolist() for name, part in data.parts.items()}


def in_one_line(found: Mapping[str, Any], spec: object) -> str:
    """Returns an overview in words.

    Args:
        found: As from :func:`overview`.
        spec: How images are prepared, described by its ``str``.
    """
    names = found["classes"]
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    images = ", ".join(f"{count} {name}" for name, count in found["images"].items())
    parts = [f"{len(names)} classes ({listed})", f"images: {images}"]
    (least, fewest), (_, most) = found["fewest"], found["most"]
    parts.append(f"training images a class: {most if fewest == most else f'{fewest} ({least}) to {most}'}")
    for title, kinds in (("files read", found["read"]), ("passed over", found["left_out"])):
        if kinds:
            parts.append(f"{title}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    if found["unreadable"]:
        parts.append(f"unreadable: {found['unreadable']}")
    return "; ".join([*parts, f"input {spec}"])


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())
