import pytest
import torch
from tiny_models import footprint, tiny, units_of

from xpruner.calibration.rotate_heads import _HeadMoments, rotate_heads
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units


def batches(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(16, *units_of(name).input_size), torch.zeros(16)) for _ in range(2)]


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "vit_without_biases", "swin", "swin_odd_heads"])
def test_a_rotated_model_computes_the_same(name):
    dense, rotated, data = tiny(name), tiny(name), batches(name)
    before = footprint(rotated)
    assert rotate_heads(rotated, data) is rotated
    assert footprint(rotated) == before
    weights, moved = dict(dense.named_parameters()), dict(rotated.named_parameters())
    changed = {path.split(".")[-3:][1] for path in moved if not torch.equal(moved[path], weights[path])}
    assert changed <= {"qkv", "proj"} and "proj" in changed
    with torch.no_grad():
        torch.testing.assert_close(rotated(data[0][0]), dense(data[0][0]), rtol=1e-4, atol=1e-5)


def test_a_pruned_model_can_be_rotated_again():
    units = find_units(tiny("vit"), ["qk", "v"])
    plan = Plan.of(units, {group.key: range(5 if group.kind == "qk" else 3) for group in units})
    slim, rotated, data = apply(tiny("vit"), plan), apply(tiny("vit"), plan), batches("vit")
    rotate_heads(rotated, data)
    assert not torch.equal(rotated.blocks[0].attn.qk.weight, slim.blocks[0].attn.qk.weight)
    with torch.no_grad():
        torch.testing.assert_close(rotated(data[0][0]), slim(data[0][0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["qk", "v"])
def test_dimensions_that_do_nothing_come_last_and_can_be_cut(kind):
    """Queries, or values, that lie in a plane of four dimensions need no more than four."""
    dense, data = tiny("vit"), batches("vit")
    for block in dense.blocks:
        qkv = block.attn.qkv
        for head in range(3):
            first = (0 if kind == "qk" else 48) + 8 * head
            plane = torch.randn(8, 4) @ torch.randn(4, 8) / 4
            qkv.weight.data[first : first + 8] = plane @ qkv.weight.data[first : first + 8]
            qkv.bias.data[first : first + 8] = plane @ qkv.bias.data[first : first + 8]
    with torch.no_grad():
        wanted = dense(data[0][0])
        units = find_units(dense, [kind])
        plan = Plan.of(units, {group.key: range(4) for group in units})
        before = (apply(dense, plan)(data[0][0]) - wanted).abs().max()
        rotate_heads(dense, data)
        after = (apply(dense, plan)(data[0][0]) - wanted).abs().max()
    assert before > 1e-2 and after < before / 20  # not zero, for the covariances are shrunk a little


def test_moments_are_not_rounded_where_the_model_runs_in_half_precision():
    moments = _HeadMoments()
    with torch.autocast("cpu", torch.bfloat16):
        moments.update(torch.tensor([[[1.001, 3.0]], [[1.001, 3.0]]]))
    wanted = torch.tensor([[1.001**2, 3.003], [3.003, 9.0]], dtype=torch.float64)
    torch.testing.assert_close(moments.sum_of_products[0] / 2, wanted, rtol=1e-6, atol=0)
