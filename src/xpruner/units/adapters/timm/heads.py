"""What the adapters for the heads of timm's many attention classes share: where heads lie, by the names of layers."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from timm.layers import RelPosBiasTf, RelPosMlp
from torch import nn

from xpruner.units.modules.replacements import RESIZABLE
from xpruner.units.registry import leave_whole
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, rows, table

PRODUCERS = {
    **{"qkv": 3, "qk": 2, "kv": 2, "q": 1, "k": 1, "v": 1, "gate": 1},
    **{"q_bias": 1, "k_bias": 1, "v_bias": 1, "temperature": 1, "logit_scale": 1, "kept_heads": 1},
}
"""What timm calls the layers and bare tensors whose axis 0 reads heads, and how often the heads repeat along it."""


def with_replacements(*classes: type[nn.Module]) -> list[type[nn.Module]]:
    """Returns stock classes together with the replacements of those that cannot hold fewer heads."""
    return [*classes, *(RESIZABLE[cls] for cls in classes if cls in RESIZABLE)]


class Heads(SlicedAdapter):
    """Heads that lie along axis 0 of some layers and tensors, and along axis 1 of the consumer's weight.

    ``scale`` and ``head_dim`` keep their dense values: a head itself does not change.
    """

    kind = "head"
    consumer = "proj"
    replacements = RESIZABLE
    number = "num_heads"
    """Attribute that holds the number of heads."""
    scaled: tuple[str, ...] = ()
    """Paths of attributes that are in proportion to it; those that a module lacks are passed over."""
    tables: tuple[str, ...] = ()
    """Paths of tables of biases with a column for each head; likewise."""

    def size(self, module: Any) -> int:
        return attrgetter(self.number)(module)

    def producers(self, module: Any) -> Mapping[str, int]:
        """Returns paths of layers and bare tensors, and how often the heads repeat along axis 0 of each.

        Those that a module lacks are passed over.
        """
        return PRODUCERS

    def slices(self, module: Any) -> list[Slice]:
        found = [columns(self.consumer, self.gates(module)[0].outer)]
        for path, outer in self.producers(module).items():
            found += [*rows(module, path, outer), *table(module, path, 0, outer)]
        for path in self.tables:
            found += table(module, path, 1)
        return found

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        size, changed = self.size(module), {self.number: count}
        for path in self.scaled:
            owner, _, name = path.rpartition(".")
            if hasattr(module.get_submodule(owner), name):
                changed[path] = attrgetter(path)(module) * count // size
        return changed


class TokenHeads(Heads):
    """Heads of attention that is nothing but them and their consumer, whose output has as many tokens as its input."""

    may_be_empty = True


class RelativeHeads(Heads):
    """Heads of attention whose child ``rel_pos`` gives each of them biases by relative position.

    They come from a table, or from a little MLP with an output for each head; its own hidden units are left whole.
    """

    apart = ("rel_pos.mlp.fc1",)

    def slices(self, module: Any) -> list[Slice]:
        biases = table(module, "rel_pos.relative_position_bias_table", self._axis(module))
        return [*super().slices(module), *rows(module, "rel_pos.mlp.fc2"), *biases]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        changed = super().attributes(module, count)
        if module.rel_pos is None:
            return changed
        shape = list(module.rel_pos.bias_shape)
        shape[self._axis(module)] = count
        numbers = {"rel_pos.num_heads": count} if hasattr(module.rel_pos, "num_heads") else {}
        return changed | numbers | {"rel_pos.bias_shape": tuple(shape)}

    def _axis(self, module: Any) -> int:
        """Returns where the heads lie in the table and in the shape of the biases."""
        return 0 if isinstance(module.rel_pos, RelPosBiasTf) else -1


leave_whole(RelPosMlp, RelPosBiasTf, why="its outputs are the heads of the attention that it belongs to")
