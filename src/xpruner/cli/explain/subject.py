"""What every subject of ``xpruner explain`` is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.run.finished import FinishedRun


@dataclass
class ExplainOptions:
    """The run, and the form of the output.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``; may stand without ``--run``, as the last word.
        json: Print JSON, to be read by a program.
    """

    run: str = "runs/xpruner"
    json: bool = False


@dataclass(frozen=True)
class Subject:
    """Something that can be explained.

    Attributes:
        name: What has to be named, such as ``UNIT``; empty for nothing.
        about: What is explained, for ``--help``.
        options: Its dataclass of options.
        explain: Computes the card from the run, the name and the options.
        text: Returns the card as tables and lines of text.
    """

    name: str
    about: str
    options: type[ExplainOptions]
    explain: Callable[["FinishedRun", str, Any], Any]
    text: Callable[[Any], list["Table | str"]]
