"""``xpruner explain``: units, classes and images of a finished run, and how far to trust the explanations."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from xpruner.cli.explain import audit, class_, image, maps, selectivity, unit
from xpruner.cli.explain.subject import Subject
from xpruner.cli.options import HELP, as_run, parse, words_and_flags
from xpruner.config.settings import fields_of
from xpruner.errors import UsageError, unknown

SUBJECTS: dict[str, Subject] = {
    "unit": unit.SUBJECT,
    "class": class_.SUBJECT,
    "audit": audit.SUBJECT,
    "image": image.SUBJECT,
    "maps": maps.SUBJECT,
    "selectivity": selectivity.SUBJECT,
}


def run(arguments: Sequence[str]) -> None:
    """Prints the explanation of a subject.

    Raises:
        UsageError: If no subject is given, it is unknown, or the run has no masks.
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
    from xpruner.run.finished import open_run

    with showing_log():
        found = SUBJECTS[subject].explain(open_run(options.run), name, options)
    show_json(asdict(found)) if options.json else show(*SUBJECTS[subject].text(found))


def usage() -> str:
    """Returns what ``xpruner explain --help`` prints."""
    ways = {f"{name} {subject.name}".strip(): subject.about for name, subject in SUBJECTS.items()}
    width = max(map(len, ways))
    return "\n".join(
        [
            "usage: xpruner explain SUBJECT [NAME] [RUN] [flags]",
            "",
            "Explains the finished run in the folder RUN, which may also be given by --run.",
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
        raise UsageError(f"Name what to explain: {ways}, with --run and the run directory.")
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
