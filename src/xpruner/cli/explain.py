"""``xpruner explain``: what a finished run says about a unit, a class, all classes, an image, and about itself."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpruner.cli.options import HELP, as_run, fields_of, parse, words_and_flags
from xpruner.errors import UsageError, unknown

if TYPE_CHECKING:
    from xpruner.explain.audit import Audit
    from xpruner.explain.class_cards import ClassCard
    from xpruner.explain.image_cards import ImageCard
    from xpruner.explain.map_cards import MapsCard
    from xpruner.explain.selectivity import SelectivityCard
    from xpruner.explain.unit_cards import UnitCard
    from xpruner.run.finished import FinishedRun


@dataclass
class ExplainOptions:
    """Of which run, and how to say it.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``; may stand without ``--run``, as the last word.
        json: Print JSON, to be read by a program.
    """

    run: str = "runs/xpruner"
    json: bool = False


@dataclass
class UnitOptions(ExplainOptions):
    """A unit of which run, on which images.

    Attributes:
        images: At most so many of the run's images are looked at.
    """

    images: int = 1000


@dataclass
class ImageOptions(ExplainOptions):
    """An image before which run, by which maps.

    Attributes:
        method: Of the explanation maps, such as ``gradcam``.
        class_name: The class that the maps explain, also written ``--class``; absent, what the dense model says. Of no
            effect on ``rollout``, which knows no class.
        output: The PNG with the image and its maps; absent, one in ``explained`` in the run directory.
    """

    method: str = "relevance"
    class_name: str | None = None
    output: str | None = None


@dataclass
class MapsOptions(ExplainOptions):
    """Which maps of which run, on which images.

    Attributes:
        methods: Of the explanation maps, such as ``gradcam,relevance``; said more than once, they add up.
        images: At most so many of the run's images that both models get right.
        seed: Of the shuffled maps.
        boxes: A CSV file of boxes around objects, ``image,left,top,right,bottom``: whether the maps lie inside is told,
            and only these images are looked at.
    """

    methods: list[str] = field(default_factory=lambda: ["attnlrp", "gradcam", "relevance", "rollout"])
    images: int = 20
    seed: int = 0
    boxes: str | None = None


@dataclass
class SelectivityOptions(ExplainOptions):
    """Which units of which run, on which images.

    Attributes:
        share: Of the units, to be closed for each class.
        kind: Of unit, such as ``hidden``; ``all`` ranks every kind together.
        images: At most so many of the run's images are looked at.
    """

    share: float = 0.1
    kind: str = "hidden"
    images: int = 1000


@dataclass(frozen=True)
class Subject:
    """Something that can be explained.

    Attributes:
        name: What has to be named, such as ``UNIT``; empty for nothing.
        about: What is said of it.
        options: Its dataclass of options.
        explain: Computes what is said.
    """

    name: str
    about: str
    options: type[ExplainOptions]
    explain: Callable[["FinishedRun", str, Any], Any]


def run(arguments: Sequence[str]) -> None:
    """Prints what a run says about a subject.

    Raises:
        UsageError: If what to explain is not said, is not there, or the run has no masks.
        XPrunerError: If a file is damaged, or a picture cannot be written.
    """
    known = {name: kind for subject in SUBJECTS.values() for name, kind in fields_of(subject.options).items()}
    words, flags = words_and_flags(arguments, known)
    asks_for_help = any(flag in HELP for flag in flags)
    if not words and asks_for_help:
        return print(usage())
    subject, name, words = _asked(words, asks_for_help)
    options = _options(subject, words, flags)
    from xpruner.cli.console import show, show_json, showing_log
    from xpruner.cli.explain_maps import maps_text, selectivity_text
    from xpruner.cli.explain_text import TEXTS
    from xpruner.run.finished import open_run

    texts: dict[str, Callable[[Any], list]] = {**TEXTS, "maps": maps_text, "selectivity": selectivity_text}
    with showing_log():
        found = SUBJECTS[subject].explain(open_run(options.run), name, options)
    show_json(asdict(found)) if options.json else show(*texts[subject](found))


def usage() -> str:
    """Returns what ``xpruner explain --help`` prints."""
    ways = {f"{name} {subject.name}".strip(): subject.about for name, subject in SUBJECTS.items()}
    width = max(map(len, ways))
    return "\n".join(
        [
            "usage: xpruner explain SUBJECT [NAME] [RUN] [flags]",
            "",
            "Says what the finished run in the folder RUN tells of a subject; RUN may also be said by --run.",
            "",
            "subjects:",
            *(f"  {way:{width}}  {about}" for way, about in ways.items()),
            "",
            "`xpruner explain SUBJECT --help` lists the flags of a subject.",
        ]
    )


def _asked(words: Sequence[str], asks_for_help: bool) -> tuple[str, str, list[str]]:
    """Returns the subject, the name of the thing, and the words that are left."""
    if words and words[0] not in SUBJECTS:
        raise unknown("subject", words[0], SUBJECTS)
    count = 2 if words and SUBJECTS[words[0]].name else 1
    if not words or (len(words) < count and not asks_for_help):
        ways = ", ".join(f"`xpruner explain {name} {subject.name}".strip() + "`" for name, subject in SUBJECTS.items())
        raise UsageError(f"Say what to explain: {ways}, with --run and the run directory.")
    return words[0], words[1] if len(words) >= count > 1 else "", list(words[count:])


def _options(subject: str, words: Sequence[str], flags: Sequence[str]) -> Any:
    """Returns the options of a subject, once they are known to be its own and in range."""
    command, offered = f"explain {subject}", fields_of(SUBJECTS[subject].options)
    for flag in (flag.partition("=")[0] for flag in flags):
        takers = [name for name, other in SUBJECTS.items() if flag[2:] in fields_of(other.options)]
        if takers and flag[2:] not in offered:
            raise UsageError(f"`xpruner {command}` has no {flag}, which is of {' and '.join(takers)}; leave it out.")
    options: Any = parse(
        command,
        SUBJECTS[subject].options(),
        [*flags, *as_run(command, words, flags)],
        words=f"{SUBJECTS[subject].name} [RUN]".strip(),
        about=SUBJECTS[subject].about,
    )
    if getattr(options, "images", 1) < 1:
        raise UsageError(f"--images is {options.images}; it must be 1 or more.")
    if getattr(options, "methods", None) == []:
        raise UsageError("--methods is empty; name one or more, such as --methods gradcam,relevance.")
    return options


def _unit(run: "FinishedRun", name: str, options: UnitOptions) -> "UnitCard":
    from xpruner.explain.unit_cards import find_unit, unit_card

    return unit_card(run, *find_unit(name, run.units), options.images)


def _class(run: "FinishedRun", name: str, _options: ExplainOptions) -> "ClassCard":
    from xpruner.explain.class_cards import class_card
    from xpruner.explain.classes import find_class

    return class_card(run, find_class(name, run.class_names))


def _audit(run: "FinishedRun", _name: str, _options: ExplainOptions) -> "Audit":
    from xpruner.explain.audit import audit_run

    return audit_run(run)


def _image(run: "FinishedRun", name: str, options: ImageOptions) -> "ImageCard":
    from xpruner.explain.classes import find_class
    from xpruner.explain.image_cards import image_card

    label = None if options.class_name is None else find_class(options.class_name, run.class_names)
    source = int(name) if name.isdecimal() else name
    return image_card(run, source, options.method, label, Path(options.output) if options.output else None)


def _maps(run: "FinishedRun", _name: str, options: MapsOptions) -> "MapsCard":
    from xpruner.explain.boxes import read_boxes
    from xpruner.explain.map_cards import maps_card

    boxes = None if options.boxes is None else read_boxes(options.boxes, run)
    return maps_card(run, options.methods, options.images, options.seed, boxes)


def _selectivity(run: "FinishedRun", _name: str, options: SelectivityOptions) -> "SelectivityCard":
    from xpruner.explain.selectivity import selectivity_card

    return selectivity_card(run, options.kind, options.share, options.images)


SUBJECTS: dict[str, Subject] = {
    "unit": Subject(
        "UNIT", "Why a unit, such as blocks.3.mlp:17, went or stayed, and what it is worth.", UnitOptions, _unit
    ),
    "class": Subject("CLASS", "Which units carry a class, and which of them went.", ExplainOptions, _class),
    "audit": Subject("", "Which classes pay for what was removed.", ExplainOptions, _audit),
    "image": Subject(
        "IMAGE", "What both models take an image file, or an image of the run by its number, for, and why.",
        ImageOptions, _image,
    ),
    "maps": Subject(
        "", "How faithful explanation maps are, and how far those of both models agree.", MapsOptions, _maps
    ),
    "selectivity": Subject(
        "", "Whether the masks speak of classes: who loses when a class's units are closed.", SelectivityOptions,
        _selectivity,
    ),
}  # fmt: skip
