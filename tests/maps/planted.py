"""Images whose class is the colour of one bright patch on noise, and small models taught to tell them apart."""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, PATCH, COLOURS = 32, 8, 3
MODELS = {
    "vit": ("vit_tiny_patch16_224", dict(patch_size=8, embed_dim=32, depth=2, num_heads=4)),
    "swin": (
        "swin_tiny_patch4_window7_224",
        dict(patch_size=4, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4)),
    ),
}


def planted(count: int, seed: int, *, without: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images (count, 3, 32, 32), their classes, and masks (count, 32, 32) of where the bright patch lies.

    ``without``: a fourth class of noise alone, so that no colour is told by the absence of the others.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = (SIDE // PATCH) ** 2
    images = 0.5 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(COLOURS + without, (count,), generator=generator)
    places = F.one_hot(torch.randint(cells, (count,), generator=generator), cells).view(count, SIDE // PATCH, -1)
    masks = places.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).bool()
    colours = 2 * F.one_hot(labels, COLOURS + 1)[:, :COLOURS].float()
    return images + masks[:, None] * colours[:, :, None, None], labels, masks


def taught(name: str) -> nn.Module:
    """Returns one of ``MODELS``, trained, without a norm behind its blocks.

    Such a norm takes the gradient along the very token that the classifier reads, and what is left misleads Grad-CAM
    on models as small as these; all other methods do well with it too.
    """
    torch.manual_seed(1)
    timm_name, kwargs = MODELS[name]
    model = timm.create_model(timm_name, img_size=SIDE, num_classes=COLOURS + 1, drop_path_rate=0.0, **kwargs)
    model.norm = nn.Identity()
    return teach(model, steps=60)


def teach(model: nn.Module, steps: int) -> nn.Module:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    for step in range(steps):
        images, labels, _ = planted(64, seed=step, without=True)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval()
