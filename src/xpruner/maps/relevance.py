"""Relevance by attention times its gradient, gathered through the blocks."""

import torch
from torch import Tensor, nn

from xpruner.maps.anatomy import anatomy_of
from xpruner.maps.attention import record_attention
from xpruner.maps.flow import first_row, follow, patch_map, with_identity
from xpruner.maps.pixels import to_pixels
from xpruner.maps.registry import explained_score, register_map


@register_map("relevance")
def relevance(model: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Returns the relevance of the patches, at least 0 (Chefer et al., ICCV 2021, equations 5 and 6).

    R = I, and per block R <- R + Abar R with Abar the mean over heads of relu(gradient of the explained logit * A); of
    R - I, the row that the classifier reads. For a class token that is its row of R over the patches, as published;
    where the mean of the tokens is read, I would add the same to every patch [our choice].

    Raises:
        UsageError: If the model cannot be read, or a class does not exist.
    """
    anatomy = anatomy_of(model)
    logits, records = record_attention(model, anatomy, images)
    caught = {record.path: record.probabilities for record in records if record.probabilities is not None}
    gradients = torch.autograd.grad(explained_score(logits, targets), list(caught.values()))
    weighed = {
        path: (gradient * caught[path].detach()).relu().mean(1)
        for path, gradient in zip(caught, gradients, strict=True)
    }
    start = first_row(anatomy, records[-1], images)
    row = follow(start, records, lambda record: with_identity(weighed[record.path])) - follow(start, records, None)
    return to_pixels(patch_map(row, anatomy, records[0]), records[0].cell, images.shape[-2:])
