"""Rollout and relevance, against products of full (tokens x tokens) matrices."""

from functools import partial

import pytest
import tiny_transformers
import torch
from tiny_models import SWIN, VIT, build, tiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from xpruner.maps import saliency
from xpruner.maps.anatomy import anatomy_of
from xpruner.maps.attention import AttentionRecord
from xpruner.maps.flow import first_row, follow, patch_map
from xpruner.maps.pixels import to_pixels
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.units import find_units

DEEP = VIT | dict(depth=4)
DEEP_SWIN = SWIN | dict(depths=(2, 4))
CUT_VIT = {
    "blocks.0:block": [],
    "blocks.1.attn:head": [0, 2],
    "blocks.1.attn:qk": [1, 2, 5],
    "blocks.2.attn:head": [],
    "blocks.3.attn:v": [0, 3],
}
CUT_SWIN = {
    "layers.0.blocks.0.attn:head": [1],
    "layers.0.blocks.1.attn:v": [0, 1],
    "layers.1.blocks.0.attn:head": [],
    "layers.1.blocks.1.attn:qk": [2, 3],
    "layers.1.blocks.2:block": [],
}


def cut(model: nn.Module, keep: dict[str, list[int]]) -> nn.Module:
    return apply(model, Plan.of(find_units(model, ("head", "qk", "v", "block")), keep))


def vit(**kwargs) -> nn.Module:
    return build("vit_tiny_patch16_224", **VIT | kwargs)


FIRST = lambda tokens, prefix: {0: 1.0}  # noqa: E731
FIRST_TWO = lambda tokens, prefix: {0: 0.5, 1: 0.5}  # noqa: E731
PATCHES = lambda tokens, prefix: {token: 1 / (tokens - prefix) for token in range(prefix, tokens)}  # noqa: E731
BOTH = lambda tokens, prefix: {0: 0.5} | {t: w / 2 for t, w in PATCHES(tokens, prefix).items()}  # noqa: E731
hf = lambda name: partial(tiny_transformers.tiny, name)  # noqa: E731

VITS = {
    "class token": (partial(tiny, "vit"), 1, FIRST),
    "distilled": (partial(tiny, "deit_distilled"), 2, FIRST_TWO),
    "registers": (partial(vit, reg_tokens=3), 4, FIRST),
    "mean": (partial(vit, reg_tokens=2, global_pool="avg"), 3, PATCHES),
    "mean without prefix": (partial(vit, class_token=False, global_pool="avg"), 0, PATCHES),
    "mean with prefix": (
        partial(vit, global_pool="avg", pool_include_prefix=True),
        1,
        lambda tokens, prefix: PATCHES(tokens, 0),
    ),
    "norms behind branches": (partial(tiny, "vit_post_norm"), 0, PATCHES),
    "pruned": (lambda: cut(build("vit_tiny_patch16_224", **DEEP), CUT_VIT), 1, FIRST),
    "transformers": (hf("vit classifier"), 1, FIRST),
    "transformers deit": (hf("deit"), 2, FIRST),
    "transformers distilled": (hf("deit distilled"), 2, FIRST_TWO),
    "transformers dinov2": (hf("dinov2 swiglu"), 1, BOTH),
    "transformers registers": (hf("dinov2 registers"), 5, BOTH),
}


def attention(model: nn.Module, images: Tensor, targets: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Returns for each attention its path, probabilities, and the gradient of the target's logit."""
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    caught = []
    for path, module in model.named_modules():
        module.fused_attn = False
        if path.endswith(".attn_drop"):
            module.register_forward_hook(lambda _m, _a, out, path=path: caught.append((path, out)))
        elif path.endswith(".attention"):
            module.register_forward_hook(lambda _m, _a, out, path=path: caught.append((path, out[1])))
    score = logits_of(model(images)).gather(1, targets[:, None]).sum()
    gradients = torch.autograd.grad(score, [tensor for _, tensor in caught])
    return [(path, a.detach().double(), g.double()) for (path, a), g in zip(caught, gradients, strict=True)]


def step_matrix(method: str, a: Tensor, gradient: Tensor) -> Tensor:
    """Returns (batch, area, area) of (batch, heads, area, area): what a block contributes besides the identity."""
    return a.mean(1) if method == "rollout" else (a * gradient).clamp(min=0).mean(1)


def with_identity(method: str, matrix: Tensor) -> Tensor:
    matrix = matrix + torch.eye(matrix.shape[-1], dtype=torch.float64)
    return matrix / matrix.sum(-1, keepdim=True) if method == "rollout" else matrix


@pytest.mark.parametrize("method", ["rollout", "relevance"])
@pytest.mark.parametrize("name", VITS)
def test_a_row_of_the_full_product_in_a_vit(name, method):
    make, prefix, reads = VITS[name]
    images, targets = torch.randn(2, 3, 32, 32), torch.tensor([1, 0])
    model = make()
    maps = saliency(model, images, method, targets)
    product = torch.eye(prefix + 16, dtype=torch.float64).expand(2, -1, -1)
    for _, a, gradient in attention(model, images, targets):
        product = with_identity(method, step_matrix(method, a, gradient)) @ product
    if method == "relevance":
        product = product - torch.eye(prefix + 16, dtype=torch.float64)
    row = sum(weight * product[:, token] for token, weight in reads(prefix + 16, prefix).items())
    wanted = to_pixels(row[:, prefix:].view(2, 4, 4), (8, 8), (32, 32))
    assert wanted.std() > 0
    assert_close(maps, wanted.float(), rtol=1e-5, atol=1e-5 * wanted.max().item())


def hf_swin(window: int) -> nn.Module:
    torch.manual_seed(3)
    config = tiny_transformers.hf.SwinConfig(**tiny_transformers.SWIN | dict(window_size=window, depths=(2, 2)))
    return tiny_transformers.hf.SwinForImageClassification(config).eval()


SWINS = {
    "shifted": (partial(build, "swin_tiny_patch4_window7_224", **SWIN), (32, 32), 2, False),
    "padded": (partial(tiny, "swin_padded_windows"), (24, 36), 2, False),
    "odd grids": (partial(build, "swin_tiny_patch4_window7_224", **SWIN | dict(img_size=18)), (18, 18), 2, False),
    "pruned": (lambda: cut(build("swin_tiny_patch4_window7_224", **DEEP_SWIN), CUT_SWIN), (32, 32), 2, False),
    "transformers": (partial(hf_swin, 4), (32, 32), 4, True),
    "transformers, padded": (partial(hf_swin, 3), (32, 32), 4, True),
}


def full_matrix(windows: Tensor, grid: tuple[int, int], side: tuple[int, int], shift: tuple[int, int], pad_first: bool):
    """Returns (batch, tokens, tokens) from (batch x windows, area, area), token by token."""
    rows, columns = grid
    down, across = -(-rows // side[0]), -(-columns // side[1])
    span = (down * side[0], across * side[1]) if pad_first else grid
    windows = windows.view(-1, down, across, *windows.shape[1:])
    place = {}
    for i in range(rows):
        for j in range(columns):
            y, x = (i - shift[0]) % span[0], (j - shift[1]) % span[1]
            place[i * columns + j] = (y // side[0], x // side[1], y % side[0] * side[1] + x % side[1])
    full = torch.zeros(len(windows), rows * columns, rows * columns, dtype=torch.float64)
    for token, (y, x, slot) in place.items():
        for other, (v, u, seat) in place.items():
            if (y, x) == (v, u):
                full[:, token, other] = windows[:, y, x, slot, seat]
    return full


def merging(coarse: tuple[int, int], fine: tuple[int, int]) -> Tensor:
    matrix = torch.zeros(coarse[0] * coarse[1], fine[0] * fine[1], dtype=torch.float64)
    for i in range(fine[0]):
        for j in range(fine[1]):
            matrix[i // 2 * coarse[1] + j // 2, i * fine[1] + j] = 1 / 4
    return matrix


@pytest.mark.parametrize("method", ["rollout", "relevance"])
@pytest.mark.parametrize("name", SWINS)
def test_a_row_of_the_full_product_in_a_swin(name, method):
    make, size, patch, pad_first = SWINS[name]
    images, targets = torch.randn(2, 3, *size), torch.tensor([1, 0])
    model = make()
    maps = saliency(model, images, method, targets)
    grids = [(size[0] // patch, size[1] // patch)]
    grids.append(tuple(-(-side // 2) for side in grids[0]))
    product = still = torch.eye(grids[0][0] * grids[0][1], dtype=torch.float64)
    stage, shifts = 0, set()
    for path, a, gradient in attention(model, images, targets):
        if f"layers.{stage}." not in path:
            stage += 1
            product, still = (merging(grids[1], grids[0]) @ matrix for matrix in (product, still))
        block = model.get_submodule(path.rpartition("blocks.")[0] + "blocks." + path.rpartition("blocks.")[2][0])
        side, shift = block.window_size, block.shift_size
        side, shift = ((side, side), (shift, shift)) if pad_first else (side, shift)
        shifts.add(shift)
        inner = step_matrix(method, a, gradient)
        if method == "rollout":
            inner = with_identity(method, inner)
        full = full_matrix(inner, grids[stage], side, shift, pad_first)
        product = (full if method == "rollout" else full + torch.eye(full.shape[-1], dtype=torch.float64)) @ product
    assert stage == 1 and len(shifts) > 1
    row = (product - still if method == "relevance" else product).mean(1)
    wanted = to_pixels(row.view(2, *grids[0]), (patch, patch), size)
    assert wanted.std() > 0
    assert_close(maps, wanted.float(), rtol=1e-5, atol=1e-5 * wanted.max().item())


def test_a_row_by_hand():
    """Two windows of two tokens side by side, shifted by one, so that the outer two tokens meet; then both merge."""
    records = [
        AttentionRecord("a", None, torch.tensor([[2, 3], [4, 1]]), (1, 4), (1, 1)),
        AttentionRecord("b", None, torch.tensor([[1, 2]]), (1, 2), (2, 2)),
    ]
    first = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]])  # token 3 attends to 2; 4 and 1 swap
    second = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])  # both attend to the second
    matrices = {"a": first.double(), "b": second.double()}
    row = follow(torch.tensor([[8.0, 8.0]]).double(), records, lambda record: matrices[record.path])
    assert_close(
        row, torch.tensor([[4.0, 2.0, 2.0, 0.0]]).double()
    )  # 0 16 -> 0 0 4 4 -> 2 of the 4 of token 3 go to token 2


def test_what_falls_on_padding_is_lost():
    record = AttentionRecord("a", None, torch.tensor([[1, 0]]), (1, 1), (1, 1))
    row = follow(torch.tensor([[1.0]]), [record], lambda _: torch.tensor([[[0.25, 0.75], [1.0, 1.0]]]))
    assert_close(row, torch.tensor([[0.25]]))


def test_rows_start_where_the_classifier_reads():
    anatomy = anatomy_of(tiny_transformers.tiny("dinov2 registers"))
    record = AttentionRecord("a", None, None, (1, 2), (1, 1))
    row = first_row(anatomy, record, torch.zeros(1, 3, 8, 16))
    assert_close(row, torch.tensor([[0.5, 0, 0, 0, 0, 0.25, 0.25]]).double())
    assert_close(patch_map(row, anatomy, record), torch.tensor([[[0.25, 0.25]]]).double())


def test_maps_of_patches_become_maps_of_pixels():
    maps = torch.tensor([[[0.0, 4.0]]])
    assert_close(to_pixels(maps, (1, 2), (1, 4)), torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))
    assert_close(to_pixels(maps, (1, 2), (1, 3)), torch.tensor([[[0.0, 1.0, 3.0]]]))  # a patch reached into padding
    assert_close(to_pixels(maps, (1, 2), (2, 5)), F.pad(torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]), (0, 1, 0, 1)))
