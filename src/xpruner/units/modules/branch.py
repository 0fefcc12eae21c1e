"""What remains of a branch that lost all its units."""

import torch
from torch import Tensor, nn


class ConstantBranch(nn.Module):
    """Replaces an attention or MLP module without units: its output is the consumer's bias, everywhere.

    timm's window attention cannot hold zero heads, so the empty branch needs a module of its own; it keeps the bias
    because compensation moves the mean of what was removed into it.

    Args:
        bias: (dim,) the bias of the linear layer that consumed the units; zeros when it had none.
        axis: The dimension of the branch's input and output that holds the channels.
    """

    def __init__(self, bias: torch.Tensor, axis: int = -1):
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())
        self.axis = axis

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Returns the bias for every token of x (..., any); masks and further arguments of attention are ignored."""
        shape = [*x.movedim(self.axis, -1).shape[:-1], len(self.bias)]
        return self.bias.to(x.dtype).expand(shape).movedim(-1, self.axis)


class SkippedBlock(nn.Module):
    """Replaces a pruned block: returns its input, whatever else a block is given."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """Returns x."""
        return x
