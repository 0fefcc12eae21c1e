"""How the heads of LinearAttention are counted, gated and cut: all of it said by where they lie in its tensors."""

from typing import Any

from xpruner.units import Slice, SlicedAdapter, columns, register_adapter, rows
from xpruner_example.linear_attention import LinearAttention


@register_adapter(LinearAttention)
class LinearAttentionAdapter(SlicedAdapter):
    """A head is some rows of the queries, keys and values, and the columns of ``proj`` that read it."""

    kind = "head"
    consumer = "proj"
    may_be_empty = True  # without heads, the module is the bias of ``proj``

    def size(self, module: Any) -> int:
        """Returns how many heads there are."""
        return module.num_heads

    def slices(self, module: Any) -> list[Slice]:
        """Returns where the heads lie."""
        return [*rows(module, "query"), *rows(module, "key"), *rows(module, "value"), columns("proj")]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        """Returns what changes in a module that keeps ``count`` heads."""
        return {"num_heads": count}
