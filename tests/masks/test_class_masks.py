import pytest
import torch
from tiny_models import group, units_of

from xpruner.errors import UsageError
from xpruner.masks.class_masks import (
    ClassMasks,
    TemporalSmoothness,
    class_variance,
    reduce_classes,
    rescaled,
    sparsity,
    total_variation,
)
from xpruner.units import Units

HAND = Units((group("a.attn:head", 2, macs=30), group("a.mlp:hidden", 3, macs=10)), 100, 50, (3, 8, 8))
VALUES = {
    "a.attn:head": torch.tensor([[0.1, 0.2], [0.5, 0.6]]),
    "a.mlp:hidden": torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_every_mask_starts_alike(rank):
    masks = ClassMasks(HAND, num_classes=4, rank=rank, init=0.9)
    values = masks.values()
    assert {key: tuple(m.shape) for key, m in values.items()} == {"a.attn:head": (4, 2), "a.mlp:hidden": (4, 3)}
    for m in values.values():
        torch.testing.assert_close(m, torch.full_like(m, 0.9))


def test_a_full_table_has_a_number_for_each_class_and_unit():
    assert sum(p.numel() for p in ClassMasks(HAND, num_classes=4).parameters()) == 4 * (2 + 3)


def test_a_low_rank_table_has_fewer():
    masks = ClassMasks(HAND, num_classes=4, rank=1)
    assert sum(p.numel() for p in masks.parameters()) == (4 + 2 + 2) + (4 + 3 + 3)


def test_a_low_rank_table_is_a_product_and_a_bias():
    masks = ClassMasks(HAND, num_classes=2, rank=1, init=0.5)
    for name, value in zip("ABb", ([[1.0], [2.0]], [[3.0], [-1.0]], [0.5, 0.0]), strict=True):
        getattr(masks.tables["a/attn:head"], name).data = torch.tensor(value)
    assert masks.logits("a.attn:head").tolist() == [[3.5, -1.0], [6.5, -2.0]]


@pytest.mark.parametrize("wrong", [{"init": 0.0}, {"init": 1.0}, {"rank": 0}])
def test_options_out_of_range_are_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(UsageError, match=rf"masks\.{name} is {value}; it must"):
        ClassMasks(HAND, 4, **wrong)


def test_hard_labels_pick_rows():
    gates = ClassMasks(HAND, 2).gates(torch.tensor([1, 0, 1]), VALUES)
    assert torch.equal(gates["a.attn:head"], torch.tensor([[0.5, 0.6], [0.1, 0.2], [0.5, 0.6]]))
    assert torch.equal(gates["a.mlp:hidden"], torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.5], [1.0, 1.0, 0.0]]))


def test_soft_labels_mix_rows():
    gates = ClassMasks(HAND, 2).gates(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), VALUES)
    torch.testing.assert_close(gates["a.attn:head"], torch.tensor([[0.2, 0.3], [0.5, 0.6]]))
    torch.testing.assert_close(gates["a.mlp:hidden"], torch.tensor([[0.25, 1.0, 0.375], [1.0, 1.0, 0.0]]))


def test_gates_come_from_the_masks_own_values():
    gates = ClassMasks(HAND, 2, init=0.75).gates(torch.tensor([1]))
    torch.testing.assert_close(gates["a.mlp:hidden"], torch.full((1, 3), 0.75))


def test_only_the_labels_rows_learn(tiny_vit):
    masks = ClassMasks(units_of("vit"), num_classes=5)
    with masks.gating(tiny_vit, torch.tensor([3, 1])):
        tiny_vit(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for parameter in masks.parameters():
        assert parameter.grad.abs().amax(1).gt(0).tolist() == [False, True, False, True, False]


def test_importance_of_each_kind():
    masks, key = ClassMasks(HAND, 2), "a.mlp:hidden"
    assert masks.importance("mean", VALUES)[key].tolist() == [0.5, 1.0, 0.25]
    assert masks.importance("max", VALUES)[key].tolist() == [1.0, 1.0, 0.5]
    assert masks.importance("abs_sum", VALUES)[key].tolist() == [1.0, 2.0, 0.5]
    assert reduce_classes(torch.tensor([[-1.0], [-0.5]]), "abs_sum").tolist() == [1.5]
    torch.testing.assert_close(masks.importance()[key], torch.full((3,), 0.95))


def test_start_from_evidence_by_hand():
    units = Units((group("a.attn:head", 3, macs=2),), 10, 5, (3, 8, 8))
    masks = ClassMasks(units, 2)
    evidence = torch.tensor([[2.0, 4.0, 6.0], [6.0, 4.0, 10.0]])  # 1, 2, 3 and 3, 2, 5 per MAC; means 2, 2, 4
    assert masks.start_from({"a.attn:head": evidence}, quantile=0.5) == 2
    expected = torch.tensor([[1 / 3, 1 / 2, 3 / 5], [3 / 5, 1 / 2, 5 / 7]])  # e / (e + 2)
    torch.testing.assert_close(masks.values()["a.attn:head"], expected)


def test_start_from_compares_units_of_all_groups_by_what_they_cost():
    masks = ClassMasks(HAND, 1)
    masks.start_from({"a.attn:head": torch.full((1, 2), 30.0), "a.mlp:hidden": torch.full((1, 3), 30.0)}, quantile=0.0)
    values = masks.values()  # one and three per MAC; e0 is one
    torch.testing.assert_close(values["a.attn:head"], torch.full((1, 2), 1 / 2))
    torch.testing.assert_close(values["a.mlp:hidden"], torch.full((1, 3), 3 / 4))


def test_start_from_compares_units_by_the_parameters_that_a_budget_counts():
    evidence = {"a.attn:head": torch.full((1, 2), 30.0), "a.mlp:hidden": torch.full((1, 3), 30.0)}
    parameters = {g.key: g.params for g in HAND}
    masks = ClassMasks(HAND, 1)
    level = masks.start_from(evidence, 0.0, "params")
    assert level == 30 / max(parameters.values())
    for key, m in masks.values().items():
        each = 30 / parameters[key]
        torch.testing.assert_close(m, torch.full_like(m, each / (each + level)))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_low_rank_table_starts_from_its_seed_whatever_was_drawn_before(seed):
    torch.manual_seed(seed)
    one = ClassMasks(HAND, 4, rank=2, seed=3).state_dict()
    torch.manual_seed(seed + 1)
    again, other = ClassMasks(HAND, 4, rank=2, seed=3).state_dict(), ClassMasks(HAND, 4, rank=2, seed=4).state_dict()
    factors = [name for name in one if name.endswith(".A")]
    assert factors
    assert all(torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name]) for name in factors)


def test_rescaling_multiplies_the_odds():
    torch.testing.assert_close(rescaled(torch.tensor([0.5, 0.8, 0.1]), 3.0), torch.tensor([3 / 4, 12 / 13, 1 / 4]))


def test_units_without_evidence_start_nearly_closed():
    masks = ClassMasks(HAND, 2)
    masks.start_from({"a.attn:head": torch.tensor([[0.0, 1.0]] * 2), "a.mlp:hidden": torch.zeros(2, 3)})
    m = masks.values()
    assert m["a.mlp:hidden"].max().item() == pytest.approx(1e-6, rel=1e-3)
    assert m["a.attn:head"][0].tolist() == pytest.approx([1e-6, 1.0], rel=1e-3)


def start_low_rank(rank):
    evidence = {group.key: torch.rand(3, group.size) + 0.1 for group in HAND}
    full, low = ClassMasks(HAND, 3), ClassMasks(HAND, 3, rank=rank)
    full.start_from(evidence)
    low.start_from(evidence)
    return [(full.logits(group.key), low.logits(group.key)) for group in HAND]


@pytest.mark.parametrize("rank", [2, 5])
def test_start_from_is_exact_at_full_rank(rank):
    for full, low in start_low_rank(rank):  # three classes lie in a plane about their mean
        torch.testing.assert_close(low, full, rtol=1e-4, atol=1e-4)


def test_start_from_is_the_best_of_low_rank():
    for full, low in start_low_rank(1):
        left_out = torch.linalg.svdvals(full - full.mean(0))[1]
        assert (full - low).norm().item() == pytest.approx(left_out.item(), rel=1e-4)
        torch.testing.assert_close(low.mean(0), full.mean(0), rtol=1e-4, atol=1e-4)


def test_start_from_forgets_what_was_learned():
    evidence = {group.key: torch.rand(2, group.size) + 0.1 for group in HAND}
    fresh, learned = ClassMasks(HAND, 2, rank=4), ClassMasks(HAND, 2, rank=4)
    for parameter in learned.parameters():
        torch.nn.init.normal_(parameter)
    for masks in (fresh, learned):
        masks.start_from(evidence)
    torch.testing.assert_close(learned.values(), fresh.values())


def test_stored_masks_are_plain_tensors():
    tensors = ClassMasks(HAND, 2).tensors()
    assert list(tensors) == ["a.attn:head", "a.mlp:hidden"]
    assert not any(m.requires_grad for m in tensors.values())


def test_sparsity_weighs_units_by_their_macs():
    # heads: 30 x (0.3 + 0.4); hidden units: 10 x (0.5 + 1 + 0.25); all open: 2 x 30 + 3 x 10
    assert sparsity(VALUES, HAND).item() == pytest.approx((30 * 0.7 + 10 * 1.75) / 90)
    assert sparsity({group.key: torch.ones(2, group.size) for group in HAND}, HAND).item() == pytest.approx(1)


def test_class_variance_is_the_mean_over_units():
    # squared half distances of the two classes: 0.04, 0.04 and 0.25, 0, 0.0625
    assert class_variance(VALUES).item() == pytest.approx((0.04 + 0.04 + 0.25 + 0 + 0.0625) / 5)


def test_total_variation_runs_along_the_units():
    # steps 0.1, 0.1 and 1, 0.5, 0, 1
    assert total_variation(VALUES).item() == pytest.approx((0.1 + 0.1 + 1 + 0.5 + 0 + 1) / 6)


def test_temporal_smoothness_over_three_steps():
    zero, one = {"a.b:head": torch.zeros(2, 1)}, {"a.b:head": torch.ones(2, 1)}
    smoothness = TemporalSmoothness(zero, decay=0.5)
    assert smoothness(zero).item() == 0
    assert smoothness(one).item() == 1  # from 0; the average becomes 1/2
    assert smoothness(one).item() == 0.25
    assert smoothness(zero).item() == 0.75**2


def test_temporal_smoothness_averages_over_all_entries_and_learns_nothing_itself():
    values = {"a:head": torch.zeros(1, 1), "b:head": torch.zeros(1, 3)}
    smoothness = TemporalSmoothness(values)
    moved = {"a:head": torch.tensor([[2.0]], requires_grad=True), "b:head": torch.zeros(1, 3)}
    penalty = smoothness(moved)
    penalty.backward()
    assert (penalty.item(), moved["a:head"].grad.item()) == (1.0, 1.0)  # 2^2 / 4, and its derivative 2 x 2 / 4
    assert list(smoothness.parameters()) == []
    assert smoothness.state_dict()["a:head"].item() == pytest.approx(0.2)


def test_importance_by_mean_odds_does_not_saturate():
    """Odds of 1/2 and 3/4 are 1 and 3; of 0.1 and 0.9, 1/9 and 9: one class that needs a unit badly is enough."""
    m = torch.tensor([[0.5, 0.1], [0.75, 0.9]])
    assert torch.allclose(reduce_classes(m, "odds"), torch.tensor([2.0, (1 / 9 + 9) / 2]))
