"""What our replacements for timm's attention share: taking over a stock module, heads apart and together, attending."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import maybe_add_mask, resolve_self_attn_mask
from torch import Tensor, nn
from torch.nn import functional as F


class Resizable(nn.Module):
    """A replacement that owns what the stock module owned, under the same names, and computes the same.

    timm reads the width of a head off the residual stream (``C // num_heads``), which is wrong once heads are cut; a
    replacement reads it off its own weights. A subclass brings the forward and derives from the stock class as well,
    whose other methods it keeps, such as the one that sets another window size.

    Args:
        stock: The module whose children, parameters, buffers and attributes are taken over; its hooks are not.
    """

    num_heads: int

    if TYPE_CHECKING:  # what a stock class holds is known by its name alone

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, stock: nn.Module):
        nn.Module.__init__(self)  # not super(): the stock class would make new weights
        for name, parameter in stock._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in stock._buffers.items():
            self.register_buffer(name, buffer, persistent=name not in stock._non_persistent_buffers_set)
        for name, child in stock._modules.items():
            self.register_module(name, child)
        bookkeeping = vars(nn.Module())
        for name, value in vars(stock).items():
            if name not in bookkeeping:
                setattr(self, name, value)
        self.training = stock.training

    def heads(self, x: Tensor, parts: int) -> Iterator[Tensor]:
        """Yields the ``parts`` that lie side by side in x (..., tokens, parts x heads x width), each with its heads."""
        return (split_heads(part, self.num_heads) for part in x.chunk(parts, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Returns what (..., heads, tokens, width) queries gather from the values, fused or not as the module is set.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            mask: Boolean, or a bias on the scores; it broadcasts against (..., heads, queries, keys).
            causal: Whether no query sees a later key.
        """
        drop = getattr(self, "attn_drop", None)
        if getattr(self, "fused_attn", False):
            dropout = drop.p if drop is not None and self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=self.scale)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = maybe_add_mask(scores, resolve_self_attn_mask(q.shape[-2], scores, mask, causal)).softmax(-1)
        return (scores if drop is None else drop(scores)) @ v

    def project(self, x: Tensor) -> Tensor:
        """Returns the output for x (..., heads, tokens, width)."""
        return self.proj_drop(self.proj(merge_heads(x)))


class Selecting(Resizable):
    """A replacement that gets something for every dense head from outside, and selects what its own heads need.

    Args:
        stock: As for :class:`Resizable`. The buffer ``kept_heads`` (heads,) holds the dense numbers of the heads that
            are left; it is cut like any other tensor, and saved, because the number of heads does not determine which.
    """

    kept_heads: Tensor

    def __init__(self, stock: nn.Module):
        super().__init__(stock)
        device = next(stock.parameters()).device
        self.register_buffer("kept_heads", torch.arange(self.num_heads, device=device))

    def of_kept_heads(self, x: Tensor) -> Tensor:
        """Returns of x (..., dense heads, tokens, any) what belongs to the heads that are left."""
        return x.index_select(-3, self.kept_heads)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Returns (..., tokens, heads x width) as (..., heads, tokens, width)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """Returns (..., heads, tokens, width) as (..., tokens, heads x width)."""
    return x.transpose(-2, -3).flatten(-2)
