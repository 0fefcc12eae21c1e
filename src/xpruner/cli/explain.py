"""``xpruner explain``: what a finished run says about a unit, a class, all classes, and an image."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpruner.cli.options import parse, take
from xpruner.errors import UsageError, unknown

if TYPE_CHECKING:
    from xpruner.explain.audit import Audit
    from xpruner.explain.cards import ClassCard, UnitCard
    from xpruner.explain.finished import FinishedRun
    from xpruner.explain.image import ImageCard

SUBJECTS = {"unit": " UNIT", "class": " CLASS", "audit": "", "image": " PATH"}


@dataclass
class ExplainOptions:
    """What to look at.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``.
        images: Of the run's test images, at most so many are looked at for a unit's card.
        method: Of an image's explanation maps, such as ``gradcam``.
        class_name: The class that an image's maps explain, also written ``--class``; absent, what the dense model says.
        output: The PNG with an image and its maps; absent, one in ``explained`` in the run directory.
        json: Print JSON, to be read by a program.
    """

    run: str = "runs/xpruner"
    images: int = 1000
    method: str = "relevance"
    class_name: str | None = None
    output: str | None = None
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Prints the card of a unit, a class or an image, or the class audit.

    Raises:
        UsageError: If what to explain is not said, is not there, or the run has no masks.
        XPrunerError: If a file is damaged, or a picture cannot be written.
    """
    words, flags = _divided(arguments)
    options = parse("explain", ExplainOptions(), flags)
    subject, name = _subject(words)
    if options.images < 1:
        raise UsageError(f"--images is {options.images}; it must be 1 or more.")
    from xpruner.cli.console import show, showing_log
    from xpruner.cli.explain_text import TEXTS
    from xpruner.explain.finished import open_run

    with showing_log():
        found = _EXPLAIN[subject](open_run(options.run), name, options)
    show(*([json.dumps(asdict(found), indent=2)] if options.json else TEXTS[subject](found)))


def _divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words, and the flags with their values."""
    words, flags = list(arguments), []
    for flag in ("--run", "--images", "--method", "--class", "--class_name", "--output"):
        values, words = take(flag, words)
        flags += [f"{'--class_name' if flag == '--class' else flag}={value}" for value in values]
    flags += [word for word in words if word.startswith("-")]
    return [word for word in words if not word.startswith("-")], flags


def _subject(words: Sequence[str]) -> tuple[str, str]:
    if words and words[0] not in SUBJECTS:
        raise unknown("subject", words[0], SUBJECTS)
    if not words or len(words) != (2 if SUBJECTS[words[0]] else 1):
        ways = ", ".join(
            f"`xpruner explain {subject}{f' {what}' if what else ''}`" for subject, what in SUBJECTS.items()
        )
        raise UsageError(f"Say what to explain: {ways}, with --run and the run directory.")
    return words[0], words[-1]


def _unit(run: "FinishedRun", name: str, options: ExplainOptions) -> "UnitCard":
    from xpruner.explain.cards import find_unit, unit_card

    return unit_card(run, *find_unit(name, run.units), options.images)


def _class(run: "FinishedRun", name: str, _options: ExplainOptions) -> "ClassCard":
    from xpruner.explain.cards import class_card, find_class

    return class_card(run, find_class(name, run.data.class_names))


def _audit(run: "FinishedRun", _name: str, _options: ExplainOptions) -> "Audit":
    from xpruner.explain.audit import audit_run

    return audit_run(run)


def _image(run: "FinishedRun", name: str, options: ExplainOptions) -> "ImageCard":
    from xpruner.explain.cards import find_class
    from xpruner.explain.image import image_card

    label = None if options.class_name is None else find_class(options.class_name, run.data.class_names)
    return image_card(run, name, options.method, label, Path(options.output) if options.output else None)


_EXPLAIN: dict[str, Any] = {"unit": _unit, "class": _class, "audit": _audit, "image": _image}
