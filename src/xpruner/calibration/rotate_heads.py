"""Heads rotated so that their dimensions are sorted by what they contribute; the model computes the same as before."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xpruner.calibration.moments import Batches
from xpruner.calibration.ridge import oas_shrinkage
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import hooked
from xpruner.runtime.modes import evaluating
from xpruner.units import prunable_parts


@torch.no_grad()
def rotate_heads(model: nn.Module, batches: Batches, precision: str = "fp32") -> nn.Module:
    """Gives every head the basis in which cutting its last query-key or value dimensions loses least, in place.

    Scores q k = (T q) (T^-T k) and outputs W c = (W T^-1) (T c) do not change when a head's basis does. With q = A a
    and k - mean = B b for white a and b, the singular vectors of A^T B are the best basis for the scores (a shift of
    all keys changes no softmax); with c - mean = C w for white w, those of W C are best for the output [our choice].
    Dimension j of every head is then its j-th best, so that dimensions of different heads can be cut together.

    Args:
        model: Whose heads have units of the kinds ``qk`` or ``v``; others are left as they are.
        batches: Calibration images; labels are not read.
        precision: Of the forward passes; the bases are solved in float64.

    Returns:
        The model.
    """
    attentions: dict[str, Any] = {}
    kinds: dict[str, set[str]] = {}
    for part in prunable_parts(model).values():
        if part.adapter.kind in ("qk", "v"):
            attentions[part.path] = part.module
            kinds.setdefault(part.path, set()).add(part.adapter.kind)
    device = next(model.parameters()).device
    moments = {path: {name: _HeadMoments() for name in "qkc"} for path in attentions}
    with evaluating(model), hooked(_hooks(attentions, moments)):
        for images, _ in batches:
            with autocast(precision, device):
                model(images.to(device))
    for path, attention in attentions.items():
        found = moments[path]
        if "qk" in kinds[path]:
            _rotate_queries_and_keys(attention, found["q"].second, found["k"].covariance)
        if "v" in kinds[path] and getattr(attention, "gate", None) is None:  # a gate acts on single channels
            _rotate_values(attention, found["c"].covariance)
    return model


class _HeadMoments:
    """First and second moments of every head's vectors, (heads, width) and (heads, width, width)."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.sum_of_products = torch.zeros((), dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        """Adds x (rows, heads, width)."""
        x = x.cpu().double() if x.device.type == "mps" else x.double()  # which autocast leaves alone
        self.count += len(x)
        self.sum = self.sum + x.sum(0)
        self.sum_of_products = self.sum_of_products + torch.einsum("nhd,nhe->hde", x, x)

    @property
    def second(self) -> Tensor:
        """The mean of x x^T."""
        return self._shrunk(self.sum_of_products.cpu() / self.count)

    @property
    def covariance(self) -> Tensor:
        """The covariance."""
        mean = self.sum.cpu() / self.count
        return self._shrunk(self.sum_of_products.cpu() / self.count - mean[:, :, None] * mean[:, None, :])

    def _shrunk(self, matrices: Tensor) -> Tensor:
        """Moves each matrix towards a multiple of the identity, so that it can be inverted."""
        eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
        shrunk = []
        for matrix in matrices:
            share = max(1e-3, oas_shrinkage(matrix, self.count))
            shrunk.append((1 - share) * matrix + share * (matrix.trace() / len(matrix) + 1e-12) * eye)
        return torch.stack(shrunk)


def _hooks(attentions: dict[str, Any], moments: dict[str, dict[str, _HeadMoments]]) -> Iterator[RemovableHandle]:
    """Registers the hooks that collect the moments of queries, keys and attended values."""
    for path, attention in attentions.items():
        heads, found = attention.num_heads, moments[path]
        stacked = 2 if hasattr(attention, "qk") else 3

        def note_scores(_module, _args, output, heads=heads, found=found, stacked=stacked):
            stacks = output.flatten(0, -2).unflatten(-1, (stacked, heads, -1))
            found["q"].update(stacks[:, 0])
            found["k"].update(stacks[:, 1])

        def note_context(_module, args, heads=heads, found=found):
            found["c"].update(args[0].flatten(0, -2).unflatten(-1, (heads, -1)))

        yield _producer(attention).register_forward_hook(note_scores)
        yield attention.proj.register_forward_pre_hook(note_context)


def _producer(attention: Any) -> nn.Linear:
    return attention.qk if hasattr(attention, "qk") else attention.qkv


def _rotate_queries_and_keys(attention: Any, queries: Tensor, keys: Tensor) -> None:
    a, b = torch.linalg.cholesky(queries), torch.linalg.cholesky(keys)
    u, s, vh = torch.linalg.svd(a.mT @ b)
    root = s.clamp(min=1e-9 * s.amax().item()).sqrt()[..., None]
    _multiply_rows(_producer(attention), 0, root * torch.linalg.solve_triangular(a.mT, u, upper=True).mT)
    _multiply_rows(_producer(attention), 1, root * torch.linalg.solve_triangular(b.mT, vh.mT, upper=True).mT)


def _rotate_values(attention: Any, context: Tensor) -> None:
    heads, width = context.shape[:2]
    c = torch.linalg.cholesky(context)
    weight = attention.proj.weight
    per_head = weight.double().cpu().unflatten(1, (heads, width)).transpose(0, 1)  # (heads, dim, width)
    _, s, vh = torch.linalg.svd(per_head @ c, full_matrices=False)
    s = s.clamp(min=1e-9 * s.amax().item())[..., None]
    rotation = s * torch.linalg.solve_triangular(c.mT, vh.mT, upper=True).mT
    back = c @ vh.mT / s.mT
    weight.copy_((per_head @ back).transpose(0, 1).flatten(1))
    layer, stack = (attention.v, 0) if hasattr(attention, "qk") else (attention.qkv, 2)
    _multiply_rows(layer, stack, rotation)


def _multiply_rows(layer: nn.Linear, stack: int, matrices: Tensor) -> None:
    """Multiplies the rows of every head in one of the stacks of a layer, weights and biases, by (heads, d, d)."""
    heads, width = matrices.shape[:2]
    rows = slice(stack * heads * width, (stack + 1) * heads * width)
    for tensor in (layer.weight, layer.bias):
        if tensor is not None:
            part = tensor[rows].double().cpu().view(heads, width, -1)
            tensor[rows] = (matrices @ part).reshape(tensor[rows].shape).to(tensor)
