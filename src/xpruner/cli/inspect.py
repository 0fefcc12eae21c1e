"""``xpruner inspect``: what can be pruned in a model, layer by layer, and what it costs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xpruner.cli.options import parse
from xpruner.config import DataConfig, ModelConfig

if TYPE_CHECKING:
    from xpruner.units import Units


@dataclass
class InspectOptions:
    """A model to inspect.

    Attributes:
        model: The model; its weights play no part.
        data: Images to inspect as well, as a run with this model finds them: ``--data.name`` and what goes with it.
        units: Kinds of unit to list.
        json: Print JSON, to be read by a program.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    units: list[str] = field(default_factory=lambda: ["head", "hidden"])
    json: bool = False


def run(arguments: Sequence[str]) -> None:
    """Prints every group of units of a model with its MACs and parameters, and the totals; and what was found of data.

    Raises:
        UsageError: If the model is unknown or has no adapter, or the data are not there or of other classes.
        XPrunerError: If a file is damaged.
    """
    options = parse("inspect", InspectOptions(), arguments)
    from xpruner.cli.console import show, show_json
    from xpruner.cli.tables import data_tables, units_table
    from xpruner.data import InputSpec, class_names, load_data
    from xpruner.data.overview import class_counts, overview
    from xpruner.models import load_model
    from xpruner.models.about import known_classes
    from xpruner.units import find_units

    logging.getLogger("xpruner").addHandler(logging.NullHandler())  # random weights are nothing to warn of here
    with_data = bool(options.data.name)
    model, _ = load_model(options.model, len(class_names(options.data)) if with_data else None)
    contents = describe(find_units(model, options.units))
    tables: list[Any] = [units_table(contents)]
    if with_data:
        data = load_data(options.data, InputSpec.of(model), 0, known_classes(model))
        contents["data"] = {**overview(data), "images_a_class": class_counts(data)}
        tables += data_tables(contents["data"], InputSpec.of(model))
    show_json(contents) if options.json else show(*tables)


def describe(units: "Units") -> dict[str, Any]:
    """Returns the groups, and the MACs (of one image) and parameters that are prunable and in all, as JSON."""
    groups: list[dict[str, Any]] = [
        {
            "key": group.key,
            "kind": group.kind,
            "units": group.size,
            "width": group.channels.shape[1] if group.consumer else 1,
            "macs_per_unit": group.macs,
            "macs": group.macs * group.size,
            "share": group.macs * group.size / units.total_macs,
            "params": group.params * group.size,
        }
        for group in units
    ]
    prunable = {resource: sum(group[resource] for group in groups) for resource in ("macs", "params")}
    total = {"macs": units.total_macs, "params": units.total_params}
    return {"input_size": list(units.input_size), "groups": groups, "prunable": prunable, "total": total}
