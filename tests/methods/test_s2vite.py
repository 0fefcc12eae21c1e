"""S2ViTE: which units go and come, when, by what they are judged, and what the search hands back."""

import pytest
import torch
from methods_setup import batches, tiny_problem
from tiny_models import tiny

from xpruner.measure.macs import count_macs
from xpruner.methods import _weight_search as training
from xpruner.methods import find_method, s2vite
from xpruner.methods.magnitude import l1
from xpruner.methods.s2vite import Explorer, dropped_and_grown, dropped_share, gate_gradient
from xpruner.plan.plan import Plan
from xpruner.units import find_units


def test_the_least_worthy_active_units_give_way_to_the_steepest_inactive_ones():
    mask = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    worth = torch.tensor([4.0, 1.0, 3.0, 2.0, 0.0, 9.0, 9.0])
    slope = torch.tensor([9.0, 9.0, 9.0, 9.0, 0.1, 0.3, 0.2])
    assert dropped_and_grown(mask, worth, slope, 2).tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    assert dropped_and_grown(mask, worth, slope, 1).tolist() == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    assert dropped_and_grown(mask, worth, slope, 0).tolist() == mask.tolist()
    assert mask.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_no_more_units_go_than_can_be_replaced_and_none_that_went_comes_back():
    mask, worth = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]), torch.tensor([4.0, 1.0, 3.0, 2.0, 0.0])
    slope = torch.tensor([9.0, 9.0, 9.0, 9.0, 0.0])
    assert dropped_and_grown(mask, worth, slope, 2).tolist() == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert dropped_and_grown(torch.ones(5), worth, slope, 2).tolist() == [1.0] * 5


def test_the_dropped_share_falls_by_a_cosine_and_ends_before_the_training():
    """450 updates: the mask changes every 40 of the first 360, eight times, and no more from there on."""
    shares = {step: dropped_share(step, 450) for step in range(1, 451)}
    assert [step for step, share in shares.items() if share] == list(range(40, 360, 40))
    assert shares[120] == pytest.approx(0.1 * (1 + 0.5))
    assert shares[240] == pytest.approx(0.1 * (1 - 0.5))
    assert 0.19 < shares[40] < 0.2 and 0 < shares[320] < 0.01


@pytest.mark.parametrize("steps", [19, 60, 300, 600, 1001])
def test_the_mask_changes_about_eight_times(steps):
    changes = sum(dropped_share(step, steps) > 0 for step in range(1, steps + 1))
    assert s2vite.ROUNDS - 1 <= changes <= s2vite.ROUNDS


def test_short_searches_change_the_mask_at_every_update():
    assert [step for step in range(1, 11) if dropped_share(step, 10)] == list(range(1, 8))


def test_the_gradient_of_a_gate_is_averaged_in_magnitude_over_the_images():
    gates = torch.ones(2, 3)
    gates.grad = torch.tensor([[1.0, -2.0, 0.0], [-3.0, -4.0, 0.0]])
    assert gate_gradient(gates).tolist() == [2.0, 3.0, 0.0]


def test_heads_are_dropped_by_gradient_and_hidden_units_by_their_weights(tiny_vit):
    units = find_units(tiny_vit)
    head, hidden = "blocks.0.attn:head", "blocks.0.mlp:hidden"
    keep = {g.key: [0, 1] if g.kind == "head" else list(range(64)) for g in units}
    with torch.no_grad():
        for layer, dim in ((tiny_vit.blocks[0].mlp.fc1, 0), (tiny_vit.blocks[0].mlp.fc2, 1)):
            layer.weight.index_fill_(dim, torch.tensor([7]), 0.001)
    explorer = Explorer(tiny_vit, units, Plan.of(units, keep))
    gates = explorer.open_gates(2)
    for gate in gates.values():
        gate.grad = torch.zeros_like(gate)
    gates[head].grad = torch.tensor([[5.0, -1.0, 2.0], [-5.0, 1.0, 2.0]])
    gates[hidden].grad[:, 7] = 100.0  # steep, and yet the one with the smallest weights
    gates[hidden].grad[:, 90] = 1.0
    explorer.explore(1 / 64)
    assert explorer.keep()[hidden] == [*range(7), *range(8, 64), 90]
    assert explorer.grown.nonzero().flatten().tolist() == [3 + 90, 3 + 96 + 3 + 64]  # of 3 heads and 96 a block
    explorer.explore(0.5)
    assert explorer.keep()[head] == [0, 2]
    assert [len(kept) for kept in explorer.keep().values()] == [2, 64, 2, 64]


def test_shares_of_few_heads_add_up_to_whole_ones(tiny_vit):
    """Of two active heads a share of 0.2 is 0.4 of a head: the second time makes one, and 0.2 of one are overdrawn."""
    units = find_units(tiny_vit, ["head"])
    explorer = Explorer(tiny_vit, units, Plan.of(units, {group.key: [0, 1] for group in units}))
    kept = []
    for _ in range(4):
        for gate in explorer.open_gates(1).values():
            gate.grad = torch.tensor([[1.0, 2.0, 3.0]])
        explorer.explore(0.2)
        kept.append(explorer.keep()["blocks.1.attn:head"])
    assert kept == [[0, 1], [1, 2], [1, 2], [0, 2]]


def test_what_was_grown_and_stayed(tiny_vit):
    units = find_units(tiny_vit, ["hidden"])
    explorer = Explorer(tiny_vit, units, Plan.of(units, {group.key: [0] for group in units}))
    assert explorer.grown_kept() == 1
    explorer.grown[[5, 6, 7, 96]] = True  # of these, the second block's first is active
    assert explorer.grown_kept() == 0.25


def test_gates_are_the_mask_for_every_image(tiny_vit):
    units = find_units(tiny_vit)
    plan = Plan.of(units, {group.key: [0] for group in units})
    gates = Explorer(tiny_vit, units, plan).open_gates(3)
    assert gates["blocks.1.attn:head"].tolist() == [[1.0, 0.0, 0.0]] * 3
    assert all(gate.requires_grad and gate.sum() == 3 for gate in gates.values())


def test_the_mask_leaves_the_first_one_at_the_same_cost():
    problem = tiny_problem("s2vite", steps=10)
    outcome = find_method("s2vite")(problem)
    scores = l1(problem)
    first = {key: sorted(scores[key].topk(len(kept)).indices.tolist()) for key, kept in outcome.plan.keep.items()}
    assert outcome.plan.keep != first
    assert outcome.plan.cost["macs_pruned"] == problem.units.cost(first)


def test_the_pruned_model_has_learned_the_labels(monkeypatch):
    monkeypatch.setattr(training, "LR", 2e-3)
    model = find_method("s2vite")(tiny_problem("s2vite", steps=100)).model
    images, labels = batches()[0]
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.6
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_windowed_models_are_pruned_as_well():
    problem = tiny_problem("s2vite", tiny("swin"), steps=3)
    reached = count_macs(find_method("s2vite")(problem).model) / count_macs(problem.model)
    assert 0.48 <= reached <= 0.5
