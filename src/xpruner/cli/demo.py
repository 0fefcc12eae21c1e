"""``xpruner demo``: a model trained and pruned on the spot."""

from collections.abc import Sequence
from dataclasses import dataclass

from xpruner.cli.options import parse


@dataclass
class DemoOptions:
    """A run that needs no weights and no images of yours.

    Attributes:
        output: The run directory; the same command continues what lies there.
        seed: Of everything.
    """

    output: str = "runs/demo"
    seed: int = 0


def run(arguments: Sequence[str]) -> None:
    """Trains a small DeiT on handwritten digits, prunes it to half its MACs and prints the figures of every stage.

    Raises:
        UsageError: If the output directory belongs to another run.
        XPrunerError: If a stage fails; the same command continues.
    """
    options = parse("demo", DemoOptions(), arguments)
    from xpruner.cli.console import showing_log, tracing
    from xpruner.cli.tables import show_result
    from xpruner.run.demo import demo_config, run_demo

    with showing_log(), tracing(options.output):
        result = run_demo(demo_config(options.output, options.seed))
    show_result(result.metrics, result.folder)
