"""Latency of a model's layers as a function of their widths: a table on a grid of widths, interpolated between them.

The times are modelled by default: multiply-accumulates of matrices whose sides are rounded up to whole tiles, as
hardware executes them. Unlike measured times they are the same on every machine and in every run.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xpruner.units import Term, Units

TILE = 16
"""Columns that matrix units process at once, in half precision."""
INTERVALS = 8
"""Points of the grid along the width of one group, at most."""


@dataclass(frozen=True)
class LatencyTable:
    """Times over a grid of widths; measured ones can take the place of the modelled ones.

    Attributes:
        keys: Groups that the time depends on, such as the heads, query-key dimensions, value dimensions and embedding.
        widths: For each of them the (points,) numbers of units on the grid, ascending from 0 to all.
        times: (points of the first group, points of the second, ...) in any unit.
    """

    keys: tuple[str, ...]
    widths: tuple[Tensor, ...]
    times: Tensor

    def at(self, kept: Mapping[str, float]) -> float:
        """Returns the time for a number of kept units of each group, linearly interpolated along every axis."""
        times = self.times
        for key, grid in zip(self.keys, self.widths, strict=True):
            width = kept[key]
            above = min(max(int(torch.searchsorted(grid, width)), 1), len(grid) - 1)
            low, high = grid[above - 1].item(), grid[above].item()
            times = torch.lerp(times[above - 1], times[above], (width - low) / (high - low))
        return times.item()


def model_latency(units: Units) -> list[LatencyTable]:
    """Returns a modelled table for every layer, an attention or an MLP, and one for everything outside of them."""
    layers: dict[str, list[Term]] = {}
    for term in units.terms:
        inner = [units[key].module for key in term.groups if units[key].kind != "embed"]
        layers.setdefault(inner[0] if inner else "", []).append(term)
    return [_modelled(terms, units) for terms in layers.values()]


def latency_gains(
    tables: Sequence[LatencyTable], kept: Mapping[str, int], bundles: Mapping[str, int]
) -> dict[str, float]:
    """Returns for each group the time saved by each unit of its next bundle when that is pruned.

    Args:
        tables: Of all layers.
        kept: Number of kept units of each group.
        bundles: Number of units of each group that are pruned together.
    """
    gains = dict.fromkeys(kept, 0.0)
    for table in tables:
        now = table.at(kept)
        for key in table.keys:
            fewer = min(bundles[key], kept[key])
            gains[key] += (now - table.at({**kept, key: kept[key] - fewer})) / fewer
    return gains


def _modelled(terms: Sequence[Term], units: Units) -> LatencyTable:
    keys = tuple(dict.fromkeys(key for term in terms for key in term.groups))
    grids = tuple(_grid(units[key].size) for key in keys)
    axes = dict(zip(keys, torch.meshgrid(*grids, indexing="ij"), strict=True))
    times = torch.zeros([len(grid) for grid in grids], dtype=torch.double)
    for term in terms:
        share = torch.ones_like(times)
        for _, side in itertools.groupby(term.groups, key=lambda key: units[key].module):
            together = list(side)  # the heads and their dimensions are one side of a matrix
            columns = math.prod((axes[key] for key in together), start=torch.ones_like(times))
            share *= (columns / TILE).ceil() * TILE / math.prod(units[key].size for key in together)
        times += term.macs * share
    return LatencyTable(keys, grids, times)


def _grid(size: int) -> Tensor:
    """Returns (points,) widths from 0 to all, in steps of whole tiles where the layer is wide."""
    step = -(-size // INTERVALS)
    if size >= 4 * TILE:
        step = -(-step // TILE) * TILE
    return torch.tensor([*range(0, size, step), size], dtype=torch.double)
