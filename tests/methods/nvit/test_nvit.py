"""NViT-style pruning: scores and latencies on paper, the schedule, resuming, and a model that can be saved."""

from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import VIT, build, tiny
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.methods.nvit import search as nvit
from xpruner.methods.nvit.latency_table import TILE, LatencyTable, latency_gains, model_latency
from xpruner.models import checkpoint
from xpruner.units import find_units
from xpruner.units.weights import resizable_copy, unit_weights


def small_model() -> torch.nn.Module:
    return build("vit_tiny_patch16_224", **VIT)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_the_saliency_of_a_layer_by_hand():
    makes, reads = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0], [-2.0]])
    torch.testing.assert_close(nvit.saliency([makes, reads]), torch.tensor([(1 + 2 + 1) ** 2 / 3, 0.0]))


def test_weights_meet_the_gradients_of_the_same_update():
    pruning = nvit._Pruning(tiny_problem("nvit"))
    mlp = pruning.student.blocks[1].mlp
    pruning.student(torch.randn(2, 3, 32, 32)).square().sum().backward()
    parts = [(mlp.fc1.weight, 1), (mlp.fc2.weight, 0)]
    total = sum((weight * weight.grad).sum(axis) for weight, axis in parts) + mlp.fc1.bias * mlp.fc1.bias.grad
    expected = (1 - nvit.MOMENTUM) * total.detach().square() / (24 + 1 + 24)
    before = mlp.fc1.weight.detach().clone()
    norm = pruning.before(1)
    assert norm > 1 and torch.equal(mlp.fc1.weight, before)  # so large that they are clipped, after they were seen
    seen = pruning.ledger.by_group(pruning.ledger.saliency)["blocks.1.mlp:hidden"]
    torch.testing.assert_close(seen.float(), expected, rtol=1e-4, atol=0)


def test_saliency_has_momentum_until_the_unit_goes():
    ledger = nvit.Ledger({"a": 2, "b": 1})
    ledger.observe({"a": numbers(1, 2), "b": numbers(3)})
    ledger.remove_all_but({"a": [1], "b": [0]}, step=4)
    ledger.observe({"a": numbers(10, 12), "b": numbers(13)})
    torch.testing.assert_close(ledger.saliency, numbers(0.1, 0.9 * 0.2 + 0.1 * 12, 0.9 * 0.3 + 0.1 * 13))
    assert ledger.keep() == {"a": [1], "b": [0]}
    assert {key: gate.tolist() for key, gate in ledger.gates().items()} == {"a": [0.0, 1.0]}


def test_scores_are_saliency_less_latency_and_what_went_first_is_lowest(monkeypatch):
    monkeypatch.setattr(nvit, "ETA", 0.5)
    ledger = nvit.Ledger({"a": 2, "b": 3})
    ledger.saliency.copy_(numbers(1, 3, 5, 9, 7))
    open_scores = ledger.scores({"a": 4.0, "b": 9.0})
    torch.testing.assert_close(open_scores["a"], numbers(1, 3) / 5 - 0.5 * 4 / 7)
    torch.testing.assert_close(open_scores["b"], numbers(5, 9, 7) / 5 - 0.5 * 9 / 7)
    ledger.remove_all_but({"a": [0, 1], "b": [0, 2]}, step=3)
    ledger.remove_all_but({"a": [0], "b": [0, 2]}, step=6)
    scores = ledger.scores({"a": 4.0, "b": 9.0})
    assert scores["b"][1] < scores["a"][1] < min(scores["a"][0], scores["b"][0], scores["b"][2])
    ledger.remove_all_but({"a": [0], "b": [0, 1, 2]}, step=7)
    assert ledger.keep() == {"a": [0], "b": [0, 1, 2]}


def test_of_equal_saliency_those_go_that_save_most_time():
    """A head saves the time of 40 hidden units, the others none; four heads of six are a fifth of the cost."""
    pruning = nvit._Pruning(tiny_problem("nvit", budget=0.8, steps=1))
    pruning.ledger.saliency.fill_(1)
    pruning.prune(1)
    gone = {key: gate.tolist().count(0) for key, gate in pruning.ledger.gates().items()}
    assert gone == {"blocks.0.attn:head": 2, "blocks.1.attn:head": 2}


def test_the_dense_models_choices_and_its_outputs_teach():
    problem = tiny_problem("nvit")
    pruning = nvit._Pruning(problem)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        pruning.student.head.bias += torch.arange(5.0)
        dense, student = problem.model(images), pruning.student(images)
        loss, _ = pruning.loss(0.0, images, torch.zeros(4))
    apart = F.kl_div(student.log_softmax(1), dense.softmax(1), reduction="batchmean")
    torch.testing.assert_close(loss, F.cross_entropy(student, dense.argmax(1)) + apart)


def test_a_table_is_interpolated_along_every_axis():
    table = LatencyTable(("a", "b"), (numbers(0, 2, 4), numbers(0, 10)), numbers(0, 1, 2, 5, 8, 9).view(3, 2))
    for (a, b), expected in {(2, 10): 5, (4, 0): 8, (0, 5): 0.5, (1, 0): 1, (3, 5): (2 + 5 + 8 + 9) / 4}.items():
        assert table.at({"a": a, "b": b, "other": 7}) == pytest.approx(expected)


def test_a_gain_is_what_one_unit_of_the_next_bundle_saves_in_all_tables():
    first = LatencyTable(("a", "e"), (numbers(0, 4), numbers(0, 2)), numbers(0, 0, 0, 8).view(2, 2))
    second = LatencyTable(("e",), (numbers(0, 1, 2),), numbers(0, 3, 4))
    gains = latency_gains([first, second], {"a": 4, "e": 2}, {"a": 2, "e": 1})
    assert gains == pytest.approx({"a": 8 / 4, "e": 8 / 2 + 1})
    assert latency_gains([second], {"e": 1}, {"e": 4}) == pytest.approx({"e": 3})


def test_the_modelled_latency_is_that_of_whole_tiles():
    model = build("vit_tiny_patch16_224", **VIT | {"embed_dim": 32, "num_heads": 4})
    units = find_units(model, nvit.KINDS)
    tables = {table.keys: table for table in model_latency(units)}
    dense = {group.key: group.size for group in units}
    mlp = tables["blocks.0.mlp:hidden", "stream:embed"]
    macs = 17 * 2 * 32 * 128
    assert mlp.at(dense) == macs
    assert mlp.at({**dense, "blocks.0.mlp:hidden": 112}) == pytest.approx(macs * 112 / 128)
    at = mlp.widths[1].tolist().index(20)
    assert mlp.times[-1, at] == macs * 2 * TILE / 32  # 20 channels take two tiles, as 32 do


def test_the_budget_is_reached_in_equal_parts_before_the_end():
    assert nvit.schedule(1) == {1: 1.0}
    assert nvit.schedule(3) == {1: 0.5, 2: 1.0}
    planned = nvit.schedule(600)
    assert (min(planned), max(planned), len(planned)) == (60 + 9, 420, nvit.PRUNINGS)
    assert list(planned.values()) == [number / 40 for number in range(1, 41)]


def test_bundles_are_the_papers_shares_of_the_narrowest_group():
    deit_base = {"embed": 768, "head": 12, "qk": 64, "v": 64, "hidden": 3072}
    units = find_units(tiny("swin"), nvit.KINDS)
    assert nvit.bundle_sizes(units) == {"embed": 1, "head": 1, "qk": 1, "v": 1, "hidden": 1}
    wide = [replace(group, size=deit_base[group.kind]) for group in units]
    assert nvit.bundle_sizes(wide) == {"embed": 16, "head": 2, "qk": 8, "v": 8, "hidden": 16}


def test_the_cost_never_lies_above_its_line():
    costs = {}
    problem = tiny_problem("nvit", steps=20)
    problem = replace(problem, on_step=lambda step, figures: costs.update({step: figures["cost"]}))
    nvit.search(problem)
    target, share = problem.budget.target(problem.units) / problem.units.total_macs, 0.0
    planned = nvit.schedule(20)
    for step in range(1, 21):  # a step is made before what goes after it
        assert costs[step] <= 1 + (target - 1) * share * (1 - 1e-9)
        share = planned.get(step, share)
    assert costs[1] == 1 and costs[20] >= 0.98 * target


def test_the_trained_weights_come_back_in_the_models_own_layout():
    model = small_model()
    units = find_units(model, nvit.KINDS)
    student = resizable_copy(model, units)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    back = nvit.restacked(student, model)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(back(images), student(images), rtol=1e-4, atol=1e-4)
    assert not torch.equal(back(images), model(images))
    assert type(back.blocks[0].attn) is type(model.blocks[0].attn)


def test_what_it_returns_can_be_saved_and_was_trained(tmp_path):
    problem = tiny_problem("nvit", budget=0.9)
    outcome = nvit.search(problem)
    checkpoint.save(outcome.model, tmp_path / "pruned")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(checkpoint.load(tmp_path / "pruned")(images), outcome.model(images))
    assert not outcome.model.training
    assert not torch.equal(outcome.model.head.bias, problem.model.head.bias)


def test_a_swin_is_pruned_in_every_stage():
    problem = tiny_problem("nvit", tiny("swin"), steps=4)
    outcome = nvit.search(problem)
    assert count_macs(outcome.model) == outcome.plan.cost["macs_pruned"]
    assert 0.98 <= outcome.plan.cost["macs_pruned"] / problem.budget.target(problem.units) <= 1
    assert set(outcome.plan.keep) == {group.key for group in problem.units}


def test_units_of_every_kind_own_weights():
    problem = tiny_problem("nvit", tiny("swin"))
    weights = unit_weights(nvit._Pruning(problem).student, problem.units)
    assert all(weights[group.key] for group in problem.units)


def test_a_search_without_steps_is_refused():
    with pytest.raises(UsageError, match=r"search\.steps is 0; nvit prunes while it trains"):
        nvit.check_steps(tiny_problem("nvit", steps=0))
