"""``xpruner specialise RUN --classes cat,dog``: a model for some of a run's classes, without training anything anew."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xpruner.cli.options import parse, take
from xpruner.errors import UsageError


@dataclass
class SpecialiseOptions:
    """Which classes, and how small.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``.
        classes: Names or numbers of the classes, as the model is to put them out.
        budget: What the model may cost: a share of the dense model such as ``0.3``, or ``60M``, ``params:1M``.
        steps: Of fine-tuning on images of these classes, with the dense model as the teacher.
        output: Folder for the model, its plan and its figures; ``specialised`` in the run directory when absent.
    """

    run: str = "runs/xpruner"
    classes: list[str] = field(default_factory=list)
    budget: str = "0.3"
    steps: int = 0
    output: str | None = None


def run(arguments: Sequence[str]) -> None:
    """Builds the model, writes it and prints the figures of its stages.

    Raises:
        UsageError: If the classes or the budget cannot be met, or the run has no masks.
        XPrunerError: If a file is damaged or cannot be written.
    """
    options = parse("specialise", SpecialiseOptions(), list(_in_full(arguments)))
    if options.steps < 0:
        raise UsageError(f"--steps is {options.steps}; it must be 0 or more.")
    from xpruner.cli.console import show, showing_log
    from xpruner.cli.tables import stages_of
    from xpruner.explain.cards import find_class
    from xpruner.explain.finished import open_run
    from xpruner.files import write_text
    from xpruner.specialise import save_specialised, specialise

    with showing_log():
        opened = open_run(options.run)
        labels = [find_class(name, opened.data.class_names) for name in options.classes]
        found = specialise(opened, labels, options.budget, options.steps)
        folder = Path(options.output) if options.output else opened.folder / "specialised"
        save_specialised(opened, found, folder / "model")
        found.plan.save(folder / "plan.json")
        write_text(folder / "metrics.json", json.dumps(found.metrics, indent=2) + "\n")
    show(stages_of(found.metrics), f"The model for {', '.join(found.class_names)} is in {folder / 'model'}.")


def _in_full(arguments: Sequence[str]) -> Iterator[str]:
    """Yields flags alone: the run that may stand first as ``--run``, the classes of each ``--classes`` as a list."""
    classes, rest = take("--classes", arguments)
    if rest and not rest[0].startswith("-"):
        rest = [f"--run={rest[0]}", *rest[1:]]
    yield from rest
    if classes:
        yield f"--classes={json.dumps([name.strip() for name in classes[-1].strip('[]').split(',')])}"
