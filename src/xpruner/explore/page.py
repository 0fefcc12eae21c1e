"""The page itself: its controls, and what is computed when one of them changes."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from xpruner.data import InputSpec
from xpruner.errors import UsageError, XPrunerError, require
from xpruner.explain.map_pair import map_pair
from xpruner.explain.predictions import top_predictions
from xpruner.explore import markup
from xpruner.explore.answers import (
    IMAGES,
    STEP,
    Choice,
    command,
    image_of,
    models_of,
    origin,
    plan_of,
)
from xpruner.maps import list_maps
from xpruner.plan.budget import Budget
from xpruner.run.finished import FinishedRun
from xpruner.text import printable

KEPT = 8
"""Models that are kept, the ones used last."""
WORDS = {"macs": "MACs", "params": "parameters"}


def serve(run: FinishedRun, host: str, port: int | None, browser: bool, images: int = IMAGES) -> Any:
    """Starts the page in the background and returns it; ``local_url`` is its address, ``close`` ends it.

    Args:
        run: A finished run.
        host: Address to bind to, such as ``127.0.0.1``.
        port: To bind to; absent, the first free one from 7860.
        browser: Whether to open the page in a browser.
        images: Training images that models made here are compensated on.

    Raises:
        UsageError: If gradio is not installed, or the address cannot be bound.
    """
    page = build_page(run, images)
    try:
        socket.create_server((host, port or 0)).close()  # gradio would try a hundred ports of a host that is not there
        page.launch(
            server_name=host, server_port=port, inbrowser=browser, prevent_thread_lock=True, quiet=True, share=False,
            footer_links=[], run_history=False, enable_monitoring=False, ssr_mode=False, mcp_server=False,
            css_paths=Path(__file__).with_name("style.css"), theme=_theme(),
        )  # fmt: skip
    except OSError as error:
        where = f"port {port} of {host}" if port else f"a port of {host}"
        raise UsageError(f"The page cannot be opened at {where}; choose another --port or --host.") from error
    return page


def build_page(run: FinishedRun, images: int = IMAGES) -> Any:
    """Returns the page of a run, a ``gradio.Blocks`` that is not started.

    Args:
        run: A finished run.
        images: Training images that models made here are compensated on.

    Raises:
        UsageError: If gradio is not installed.
    """
    gr = _gradio()
    answers = _Answers(run, images, partial(gr.Error, print_exception=False))
    shown = partial(gr.HTML, elem_classes="shown", apply_default_css=False)
    with gr.Blocks(title=f"{printable(run.folder.name)} – xpruner", analytics_enabled=False) as page:
        shown(markup.heading(run))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                controls = _controls(gr, run, answers.budget)
            with gr.Column(scale=5, min_width=320):
                summary, predictions, maps = shown(), shown(), shown()
                with gr.Accordion("Kept units, layer by layer"):
                    units = shown()
        _connect(gr, page, controls, answers, _Parts(summary, units, predictions, maps))
    return page


@dataclass(frozen=True)
class _Controls:
    """What can be chosen, as gradio's components."""

    share: Any
    labels: Any
    number: Any
    upload: Any
    method: Any


@dataclass(frozen=True)
class _Parts:
    """What is shown, as gradio's components."""

    summary: Any
    units: Any
    predictions: Any
    maps: Any


def _controls(gr: Any, run: FinishedRun, budget: Budget) -> _Controls:
    classes = list(zip(map(printable, run.data.class_names), range(run.data.num_classes), strict=True))
    return _Controls(
        gr.Slider(
            STEP, 1, round(budget.amount, 2), step=STEP, buttons=["reset"],
            label="Budget", info=f"Share of the dense model's {WORDS[budget.resource]}.",
        ),
        gr.Dropdown(classes, value=[], multiselect=True, label="Classes", info="None for all of them."),
        gr.Number(0, precision=0, label="Image", info=f"One of the run's, 0 to {len(run.images) - 1}."),
        gr.File(file_types=["image"], label="Image of your own, instead", height=140),
        gr.Dropdown(list_maps(), value="relevance", label="Explanation maps"),
    )  # fmt: skip


def _connect(gr: Any, page: Any, controls: _Controls, answers: "_Answers", parts: _Parts) -> None:
    """Connects controls and parts: of slow answers only the latest is computed, one at a time."""
    share, labels, number, upload = controls.share, controls.labels, controls.number, controls.upload
    asked, image = [share, labels], [number, upload]
    latest: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 1}
    slow = {**latest, "concurrency_id": "models"}

    def complete(_share: float, chosen: Sequence[int]) -> list[Any]:
        return [gr.validate(True, ""), gr.validate(len(chosen) != 1, "Choose one more.")]

    changed = [page.load, share.change, labels.change]
    plan = gr.on(changed, answers.plan, asked, [parts.summary, parts.units], validator=complete, **latest)
    for event in (plan.success, partial(gr.on, [number.change, upload.change])):
        predicted = event(answers.predictions, asked + image, parts.predictions, **slow)
        predicted.success(answers.maps, [*asked, *image, controls.method], parts.maps, **slow)
    controls.method.change(answers.maps, [*asked, *image, controls.method], parts.maps, **slow)


class _Answers:
    """What is shown for the values of the controls, as HTML; what cannot be shown is raised as the page's own error.

    Args:
        run: A finished run.
        images: Training images that models made here are compensated on.
        error: Makes that error of a sentence in HTML.
    """

    def __init__(self, run: FinishedRun, images: int, error: Callable[[str], Exception]):
        self.run, self.images, self.error = run, images, error
        self.budget = run.budget
        self.models = lru_cache(KEPT)(partial(models_of, run, images=images))

    def plan(self, share: float, labels: Sequence[int]) -> tuple[str, str]:
        """Returns what the pruned model costs and where it comes from, and the table of kept units."""
        with self._as_page_error():
            choice = Choice.of(self.run, share, labels)
            plan = plan_of(self.run, choice)
            source = markup.source(origin(self.run, choice, self.images), command(self.run, choice))
            return markup.costs(plan) + source, markup.units(plan)

    def predictions(self, share: float, labels: Sequence[int], number: int | None, upload: str | None) -> str:
        """Returns what both models predict for the image."""
        with self._as_page_error():
            image, what = image_of(self.run, upload, number)
            models = self.models(Choice.of(self.run, share, labels))
            dense, pruned = (
                top_predictions(model, image, models.class_names) for model in (models.dense, models.pruned)
            )
            return markup.predictions(what, share, dense, pruned)

    def maps(self, share: float, labels: Sequence[int], number: int | None, upload: str | None, method: str) -> str:
        """Returns the image and both models' maps."""
        with self._as_page_error():
            image, _ = image_of(self.run, upload, number)
            models = self.models(Choice.of(self.run, share, labels))
            pair = map_pair(models.dense, models.pruned, image, method)
            return markup.maps(image, InputSpec.of(self.run.dense), pair, pair.explained(models.class_names))

    @contextmanager
    def _as_page_error(self) -> Iterator[None]:
        try:
            yield
        except XPrunerError as error:
            raise self.error(markup.escape(str(error))) from error


def _theme() -> Any:
    """Returns gradio's own theme with the system's fonts, and quiet text that can be read."""
    quiet, quiet_in_the_dark = "*neutral_600", "*neutral_300"
    return _gradio().themes.Default(font="system-ui", font_mono="ui-monospace").set(
        body_text_color_subdued=quiet, body_text_color_subdued_dark=quiet_in_the_dark,
        block_info_text_color=quiet, block_info_text_color_dark=quiet_in_the_dark,
    )  # fmt: skip


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    return require("gradio", "open the page", "explore")
