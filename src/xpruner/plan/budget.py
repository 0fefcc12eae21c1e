"""What a pruned model may cost."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from xpruner.errors import UsageError, unknown
from xpruner.units import UnitGroup, Units

MINIMA = {"head": 1, "hidden": 8, "qk": 4, "v": 4, "embed": 8, "block": 0}
"""How many units of each kind a plan from scores keeps of a group at least."""


_SUFFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Budget:
    """What the pruned model may cost.

    Attributes:
        amount: A fraction of the dense model's cost when at most 1, else an absolute figure.
        resource: ``macs`` or ``params``.
        round_to: For a kind of unit the number of which every kept width is a multiple, such as ``{"hidden": 16}``.
    """

    amount: float
    resource: str = "macs"
    round_to: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: "str | float | Budget", round_to: Mapping[str, int] | None = None) -> "Budget":
        """Reads ``0.5``, ``600M``, ``2.4G``, ``macs:0.5`` or ``params:3M``.

        Raises:
            UsageError: If the text is none of these or not above zero, or a width is rounded to less than one.
        """
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"(?:(macs|params):)?([0-9.]+(?:e[+-]?\d+)?)([kmg]?)", str(text).strip().lower())
        try:
            amount = float(match[2]) * _SUFFIXES[match[3]] if match else 0.0
        except ValueError:
            amount = 0.0
        if not match or amount <= 0:
            raise UsageError(
                f"The budget {text!r} is out of range; write a fraction above 0 and at most 1, such as 0.5, or an "
                "absolute figure, such as 600M or params:3M."
            )
        for kind, multiple in (round_to or {}).items():
            if kind not in MINIMA:
                raise unknown("unit kind", kind, MINIMA)
            if multiple < 1:
                raise UsageError(f"round_to is {multiple} for {kind!r}; it must be 1 or more, such as 8.")
        return cls(amount, match[1] or "macs", dict(round_to or {}))

    def target(self, units: Units) -> float:
        """Returns the MACs or parameters that the pruned model may have.

        Raises:
            UsageError: If that is more than the dense model has, or less than can be reached.
        """
        dense = units.total(self.resource)
        target = self.amount * dense if self.amount <= 1 else self.amount
        fewest = {group.key: list(range(minimum(group, self.multiple(group)))) for group in units}
        least = units.cost(fewest, self.resource)
        if not least <= target <= dense:
            raise UsageError(
                f"The budget of {self.amount:g} {self.resource} is out of reach: the dense model has {dense:,.0f} and "
                f"the smallest that keeps {_minima_of(units)} {least:,.0f} "
                f"({least / dense:.3f} of it); ask for something between."
            )
        return target

    def share(self, units: Units) -> float:
        """Returns the target as a share of the dense model's cost.

        Raises:
            UsageError: As :meth:`target`.
        """
        return self.target(units) / units.total(self.resource)

    def multiple(self, group: UnitGroup) -> int:
        """Returns the number of which a kept width of the group is a multiple."""
        return self.round_to.get(group.kind, 1)


def minimum(group: UnitGroup, multiple: int = 1) -> int:
    """Returns how many units a plan from scores keeps of a group at least."""
    least = MINIMA[group.kind]
    return min(group.size, -(-least // multiple) * multiple)


def _minima_of(units: Units) -> str:
    kinds = dict.fromkeys(group.kind for group in units)
    return " and ".join(f"{MINIMA[kind]} {kind}" for kind in kinds) + " units of a module"
