"""``xpruner evaluate``: how accurate, large and fast one model is."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xpruner.cli.options import parse
from xpruner.config import DataConfig, ModelConfig

log = logging.getLogger("xpruner")


@dataclass
class EvaluateOptions:
    """A model and the images that it is measured on.

    Attributes:
        model: The model.
        data: The images: those for testing, or the held-out ones where ``data.val_size`` asks for some.
        seed: Of the choice of held-out images.
        precision: Of the forward passes that accuracy is measured with: ``fp32``, ``bf16`` or ``fp16``; ``auto`` is the
            faster of bf16 and fp32 on this machine.
        latency: Batch sizes at which a forward pass is timed, such as ``[1,32]``; empty for none.
        json: Print JSON, to be read by a program.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    latency: list[int] = field(default_factory=list)
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Prints the top-1 accuracy, MACs, parameters and, where asked for, the latency of a model.

    Raises:
        UsageError: If the request cannot be met.
        XPrunerError: If a file is damaged.
    """
    options = parse("evaluate", EvaluateOptions(), arguments)
    from xpruner.cli.console import show, show_json, showing_log
    from xpruner.cli.tables import figures_table

    with showing_log():
        figures = measure(options)
    show_json(figures) if options.json else show(figures_table(figures))


def measure(options: EvaluateOptions) -> dict[str, Any]:
    """Returns the figures of a model.

    Returns:
        ``model``, ``images``, ``precision``, ``top1`` (0 to 1), ``macs``, ``params``, what was found of the
        images as ``data`` and, where it is asked for, ``latency`` (ms by batch size).
    """
    from xpruner.data import InputSpec, class_names, load_data
    from xpruner.data.overview import in_one_line, overview
    from xpruner.measure.latency import measure_latency
    from xpruner.measure.macs import count_macs, count_params
    from xpruner.models import load_model
    from xpruner.models.about import known_classes, warn_of_accuracy
    from xpruner.runtime.devices import accelerator
    from xpruner.runtime.precision import resolve_precision
    from xpruner.training import evaluate

    model, _ = load_model(options.model, len(class_names(options.data)))
    spec = InputSpec.of(model)
    data = load_data(options.data, spec, options.seed, known_classes(model))
    found = overview(data)
    log.info("%s", in_one_line(found, spec))
    images = data.test if data.val is None else data.val
    loading = {"batch_size": options.data.batch_size, "workers": options.data.workers}
    precision = resolve_precision(options.precision, accelerator().device)
    figures: dict[str, Any] = {
        "model": options.model.name,
        "images": len(images),
        "precision": precision,
        "top1": evaluate(model, images, **loading, precision=precision),
        "macs": count_macs(model),
        "params": count_params(model),
        "data": found,
    }
    warn_of_accuracy(model, figures["top1"], len(images))
    if not options.latency:
        return figures
    times = measure_latency({"model": model}, (spec.channels, *spec.size), options.latency)
    return {**figures, "latency": {str(batch): milliseconds for batch, milliseconds in times["model"].items()}}
