"""``xpruner explore RUN``: a page in which other budgets, some classes and images of one's own are tried on a run."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event

from xpruner.cli.options import parse_with_run
from xpruner.errors import UsageError

ABOUT = "Opens a page in which other budgets, classes and images are tried on the finished run in the folder RUN."


@dataclass
class ExploreOptions:
    """Which run, and where its page is.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``; may stand without ``--run``.
        host: Address that the page is bound to; ``0.0.0.0`` shows it to the whole network.
        port: Its port; absent, the first free one from 7860.
        no_browser: Open no browser, also written ``--no-browser``.
        images: Training images that models made in the page are compensated on; 0 for none.
    """

    run: str = "runs/xpruner"
    host: str = "127.0.0.1"
    port: int | None = None
    no_browser: bool = False
    images: int = 64


def run(arguments: Sequence[str]) -> None:
    """Shows the page until it is interrupted.

    Raises:
        UsageError: If gradio is not installed, the run is not finished, or the address cannot be bound.
        XPrunerError: If a file is damaged.
    """
    options = parse_with_run("explore", ExploreOptions(), arguments, ABOUT)
    if options.port is not None and not 1 <= options.port <= 65535:
        raise UsageError(f"--port is {options.port}; it must be from 1 to 65535.")
    if options.images < 0:
        raise UsageError(f"--images is {options.images}; it must be 0 or more.")
    from xpruner.cli.console import show, showing_log
    from xpruner.explore.page import serve
    from xpruner.run.finished import open_run

    with showing_log():
        page = serve(open_run(options.run), options.host, options.port, not options.no_browser, options.images)
        with suppress(KeyboardInterrupt):
            show(f"The page is at {page.local_url}; Ctrl-C ends it.")
            Event().wait()
        page.close(verbose=False)
