from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import SWIN, VIT, build, footprint

from xpruner import load, save
from xpruner.calibration.moments import Moments
from xpruner.compensation import solve
from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.methods import find_method
from xpruner.methods.corp import energies, logit_energy, match_logits, query_key_moments
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units


@pytest.fixture
def almost_no_ridge(monkeypatch):
    """Least squares proper: what is exact up to the ridge becomes exact up to 1e-4."""
    monkeypatch.setattr(solve, "ridge", lambda covariance, samples, least: 1e-8 * covariance.trace().item())


def make_last_dimensions_affine(attn, kept):
    """Makes the queries and keys of every head behind the first ``kept`` dimensions affine in those."""
    layer, heads = attn.qkv, attn.num_heads
    width = layer.out_features // (3 * heads)
    weight = layer.weight.data.view(3, heads, width, -1)
    mix = torch.randn(2, heads, width - kept, kept) / 2
    weight[:2, :, kept:] = mix @ weight[:2, :, :kept]
    if layer.bias is not None:
        layer.bias.data.view(3, heads, width)[:2, :, kept:] = torch.randn(2, heads, width - kept)


@pytest.mark.parametrize(
    "name, kwargs",
    [
        ("vit_tiny_patch16_224", VIT),
        ("vit_tiny_patch16_224", VIT | {"qkv_bias": False}),
        ("swin_tiny_patch4_window7_224", SWIN),
    ],
)
def test_what_is_affine_in_the_kept_dimensions_is_compensated_for(name, kwargs, almost_no_ridge):
    torch.manual_seed(0)
    dense = build(name, **kwargs)
    units = find_units(dense, ("qk",))
    width, kept = (8, 5) if "vit" in name else (6, 4)
    problem = tiny_problem("corp", dense)
    problem = replace(problem, units=units)
    for group in units:
        make_last_dimensions_affine(dense.get_submodule(group.module), kept)
    plan = Plan.of(units, {group.key: list(range(kept)) for group in units if group.size == width})
    assert plan.keep
    cut = apply(dense, plan)
    moments = {path: heads for path, heads in query_key_moments(problem).items() if f"{path}:qk" in plan.keep}
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        wanted, before = dense(images), cut.eval()(images)
        match_logits(cut, plan, moments, 0.0)
        after = cut(images)
    assert (before - wanted).abs().max() > 1e-2
    torch.testing.assert_close(after, wanted, rtol=0, atol=2e-4)


def test_heads_that_are_gone_and_units_that_stay_are_matched_too(almost_no_ridge):
    torch.manual_seed(0)
    dense = build("vit_tiny_patch16_224", **VIT)
    problem = replace(tiny_problem("corp", dense), units=find_units(dense, ("qk", "head")))
    for block in dense.blocks:
        make_last_dimensions_affine(block.attn, 5)
    heads = {"blocks.0.attn:head": [0, 2], "blocks.1.attn:head": [1]}
    with_qk = heads | {"blocks.0.attn:qk": [0, 1, 2, 3, 4], "blocks.1.attn:qk": list(range(8))}
    plan = Plan.of(problem.units, with_qk)
    cut, wanted = apply(dense, plan).eval(), apply(dense, Plan.of(problem.units, heads)).eval()
    match_logits(cut, plan, query_key_moments(problem), 0.0)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(cut(images), wanted(images), rtol=0, atol=2e-4)


def test_a_search_matches_the_logits_of_what_it_cuts(almost_no_ridge):
    """Where the dimensions lie in a space of six, any six of them tell the other two."""
    dense = build("vit_tiny_patch16_224", **VIT)
    problem = replace(tiny_problem("corp", dense, 0.965), units=find_units(dense, ("qk",)))
    for block in dense.blocks:
        make_last_dimensions_affine(block.attn, 6)
    outcome = find_method("corp")(problem)
    assert {len(kept) for kept in outcome.plan.keep.values()} == {6}
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(outcome.model(images), dense(images), rtol=0, atol=2e-4)


def test_the_energy_of_a_dimension_is_that_of_its_products_without_the_mean_key():
    head = Moments(4)  # queries of two dimensions, then keys of two
    head.update(torch.tensor([[1.0, 0.0, 5.0, 1.0], [3.0, 0.0, 7.0, 1.0]]))
    # mean of q_0 squared is (1 + 9) / 2; k_0 is 5 or 7, with variance 1; k_1 never changes
    assert logit_energy(head).tolist() == [5.0, 0.0]


def test_hidden_units_score_variance_times_the_squared_norm_of_their_column():
    torch.manual_seed(0)
    problem = tiny_problem("corp")
    scores = energies(problem, query_key_moments(problem))
    mlp, read = problem.model.blocks[0].mlp, []
    handle = mlp.fc2.register_forward_pre_hook(lambda _module, args: read.append(args[0]))
    with torch.no_grad():
        problem.model(problem.calibration[0][0])
    handle.remove()
    wanted = read[0].flatten(0, 1).var(0, correction=0) * mlp.fc2.weight.detach().square().sum(0)
    torch.testing.assert_close(scores["blocks.0.mlp:hidden"].float(), wanted, rtol=1e-4, atol=1e-6)


def test_every_layer_keeps_the_same_share_and_the_outcome_can_be_saved(tmp_path):
    torch.manual_seed(0)
    kwargs = VIT | {"qkv_bias": False, "img_size": 32, "num_classes": 5}
    problem = tiny_problem("corp", build("vit_tiny_patch16_224", **kwargs), 0.75)
    before = footprint(problem.model)
    outcome = find_method("corp")(problem)
    assert footprint(problem.model) == before
    shares = [len(outcome.plan.keep[group.key]) / group.size for group in problem.units]
    assert max(shares) - min(shares) <= 1 / 8
    assert count_macs(outcome.model) == pytest.approx(0.75 * count_macs(problem.model), rel=0.01)
    save(outcome.model, tmp_path, kwargs=kwargs)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(images), outcome.model.eval()(images))


def test_compensation_brings_the_outputs_closer_to_the_dense_model():
    torch.manual_seed(0)
    problem = tiny_problem("corp", budget=0.7)
    outcome = find_method("corp")(problem)
    images = problem.calibration[0][0]
    with torch.no_grad():
        wanted = problem.model(images)
        plain, matched = (model.eval()(images) for model in (apply(problem.model, outcome.plan), outcome.model))
    assert (matched - wanted).square().mean() < 0.8 * (plain - wanted).square().mean()


def test_thirty_percent_of_deit_tiny_can_be_reached_by_hidden_units_and_dimensions():
    with torch.device("meta"):
        model = build("deit_tiny_patch16_224", img_size=224)
    units = find_units(model, find_method("corp").kinds)
    assert Budget(0.3).target(units) == 0.3 * units.total_macs


def test_units_that_nothing_reads_are_refused():
    model = build("vit_tiny_patch16_224", **VIT)
    problem = replace(tiny_problem("corp", model), units=find_units(model, ("hidden", "embed")))
    with pytest.raises(UsageError, match="stream:embed"):
        find_method("corp")(problem)
