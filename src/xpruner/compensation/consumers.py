"""Which consumers compensation fits: the linear layers that read the units, in the dense and in the pruned model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import classifiers
from xpruner.units import DEFAULT_KINDS, UnitGroup, find_units, prunable_parts
from xpruner.units.modules.branch import ConstantBranch
from xpruner.units.streams import stream_key


@dataclass(frozen=True)
class Consumer:
    """A consumer in the dense and in the pruned model.

    Attributes:
        pruned: The pruned model.
        dense: The dense model.
        path: Of the consumer in the dense model.
        groups: The groups whose units it reads.
        kept: Its input channels that are kept, ascending.
        removed: Its input channels that are pruned.
        outputs: Its output channels that are kept; the others belong to pruned embedding channels.
    """

    pruned: nn.Module
    dense: nn.Module
    path: str
    groups: list[UnitGroup]
    kept: Tensor
    removed: Tensor
    outputs: Tensor

    @property
    def source(self) -> Any:
        """The consumer in the dense model."""
        return self.dense.get_submodule(self.path)

    @property
    def branch(self) -> str:
        """The path of the module whose units it reads."""
        return self.groups[0].module

    @property
    def target(self) -> Any:
        """What the consumer is in the pruned model: itself, or the constant that is left of its branch."""
        module = self.pruned.get_submodule(self.branch)
        return module if isinstance(module, ConstantBranch) else self.pruned.get_submodule(self.path)


def consumers_to_fit(pruned: nn.Module, dense: nn.Module, plan: Plan) -> list[Consumer]:
    """Returns every consumer that is left and is linear in its input, in forward order."""
    kinds = {key.rpartition(":")[2] for key in plan.keep}
    if not kinds <= set(DEFAULT_KINDS):
        kinds |= set(DEFAULT_KINDS)  # whatever was pruned, the consumers of these can compensate for it
    parts = prunable_parts(dense)
    skipped = [parts[key] for key, indices in plan.keep.items() if not indices and parts[key].is_one_unit]
    consumers = []
    for path, groups in find_units(dense, sorted(kinds or DEFAULT_KINDS)).of_consumers().items():
        layer: Any = dense.get_submodule(path)
        if any(block.contains(path) for block in skipped) or not _is_linear(layer) or path in classifiers(dense):
            continue
        kept, removed = channels(groups, plan, layer.weight.shape[1])
        outputs = plan.keep.get(stream_key(dense, path), range(layer.weight.shape[0]))
        consumers.append(Consumer(pruned, dense, path, groups, kept, removed, torch.tensor(list(outputs))))
    return consumers


def _is_linear(layer: Any) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    )


def channels(groups: list[UnitGroup], plan: Plan, count: int) -> tuple[Tensor, Tensor]:
    """Returns which of a consumer's ``count`` input channels are kept and which are pruned, ascending."""
    kept = torch.ones(count, dtype=torch.bool)
    for group in groups:
        pruned = torch.ones(group.size, dtype=torch.bool)
        pruned[plan.keep.get(group.key, range(group.size))] = False
        kept[group.channels[pruned].flatten()] = False
    return kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]
