"""``xpruner specialise RUN --classes cat,dog``: a model for some of a run's classes, without learning masks again."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xpruner.cli.options import parse_with_run
from xpruner.errors import UsageError

ABOUT = "Builds a model for some classes of the finished run in the folder RUN, without learning masks again."
LONGEST = 60
"""Characters of the name of a folder, before the rest of the classes becomes a checksum."""


@dataclass
class SpecialiseOptions:
    """Which classes, and how small.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``; may stand without ``--run``.
        classes: Names or numbers of the classes, as the model is to put them out, such as ``cat,dog``, or as a list,
            ``["tench, Tinca tinca", "hen"]``; given more than once, they add up.
        budget: What the model may cost: a share of the dense model such as ``0.3``, or ``60M``, ``params:1M``.
        steps: Of fine-tuning on images of these classes, with the dense model as the teacher.
        output: Folder for the model, its plan and its figures; one named after classes and budget, in ``specialised``
            in the run directory, when absent.
    """

    run: str = "runs/xpruner"
    classes: list[str] = field(default_factory=list)
    budget: str = "0.3"
    steps: int = 0
    output: str | None = None


def run(arguments: Sequence[str]) -> None:
    """Builds the model, writes it and prints the figures of its stages.

    Raises:
        UsageError: If the classes or the budget cannot be met, the run has no masks, or another program works in the
            output folder.
        XPrunerError: If a file is damaged or cannot be written.
    """
    options = parse_with_run("specialise", SpecialiseOptions(), arguments, ABOUT)
    if options.steps < 0:
        raise UsageError(f"--steps is {options.steps}; it must be 0 or more.")
    from xpruner.cli.console import show, showing_log
    from xpruner.cli.tables import stages_of
    from xpruner.explain.classes import find_classes
    from xpruner.files import write_text
    from xpruner.run.finished import open_run
    from xpruner.run.locks import working_in
    from xpruner.run.metrics import METRICS
    from xpruner.run.specialise import save_specialised, specialise

    with showing_log():
        opened = open_run(options.run)
        labels = find_classes(options.classes, opened.class_names)
        name = folder_name([opened.class_names[label] for label in labels], options.budget, options.steps)
        folder = Path(options.output) if options.output else opened.folder / "specialised" / name
        with working_in(folder):
            found = specialise(opened, labels, options.budget, options.steps)
            save_specialised(opened, found, folder / "model")
            found.plan.save(folder / "plan.json")
            write_text(folder / METRICS, json.dumps(found.metrics, indent=2) + "\n")
    show(stages_of(found.metrics), f"The model for {', '.join(found.class_names)} is in {folder / 'model'}.")


def folder_name(class_names: Sequence[str], budget: str, steps: int) -> str:
    """Returns what a model's folder is called, such as ``cat,dog-0.3``: another request gets another folder."""
    plain = ",".join(class_names)
    name = re.sub(r"[^\w,.-]", "_", plain)[:LONGEST]
    if name != plain or any("," in one for one in class_names):
        name += f"-{hashlib.sha256(json.dumps(list(class_names)).encode()).hexdigest()[:8]}"
    trained = f"-{steps}-steps" if steps else ""
    return f"{name}-{budget.replace(':', '_')}{trained}"
