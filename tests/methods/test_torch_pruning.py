import sys
from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import SWIN, VIT, build, tiny

from xpruner.errors import UsageError
from xpruner.methods import find_method
from xpruner.methods.isomorphic import copy_with_gradients
from xpruner.methods.torch_pruning import removed_at
from xpruner.units import find_units


def vit(**changes):
    torch.manual_seed(0)
    return build("vit_tiny_patch16_224", **VIT | changes)


def package():
    import torch_pruning

    return torch_pruning


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_units_are_those_that_the_package_itself_removes(ratio):
    problem = tiny_problem("torch_pruning", vit(num_heads=4))
    model = copy_with_gradients(problem)
    removed = removed_at(package(), model, problem, ratio)
    assert {key: int(gone.sum()) for key, gone in removed.items()} == {
        group.key: int(ratio * group.size) for group in problem.units
    }
    mlp = model.blocks[0].mlp
    products = [(layer.weight * layer.weight.grad).abs().detach() for layer in (mlp.fc1, mlp.fc2)]
    worst = (products[0].sum(1) + products[1].sum(0)).argsort()[: int(ratio * 96)]
    assert set(worst.tolist()) == set(removed["blocks.0.mlp:hidden"].nonzero()[:, 0].tolist())


def test_looking_leaves_the_model_whole_and_the_next_look_the_same():
    problem = tiny_problem("torch_pruning", vit())
    model = copy_with_gradients(problem)
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    first = removed_at(package(), model, problem, 0.5)
    removed_at(package(), model, problem, 0.9)
    again = removed_at(package(), model, problem, 0.5)
    assert all(torch.equal(gone, again[key]) for key, gone in first.items())
    assert {name: tensor.shape for name, tensor in model.named_parameters()} == shapes


def test_what_goes_at_a_small_ratio_goes_at_a_larger_one_and_the_plan_lies_between():
    problem = tiny_problem("torch_pruning", vit(num_heads=4, depth=4))
    model = copy_with_gradients(problem)
    keep = find_method("torch_pruning")(problem).plan.keep
    less, more = (removed_at(package(), model, problem, ratio) for ratio in (0.15, 0.45))
    for key, kept in keep.items():
        assert not less[key][kept].any()
        assert (less[key] <= more[key]).all()
        assert more[key].sum() >= len(more[key]) - len(kept)


@pytest.mark.parametrize("name", ["deit_distilled", "deit3_layer_scale", "deit"])
def test_relatives_of_the_vit_are_pruned_to_the_budget(name):
    problem = tiny_problem("torch_pruning", tiny(name))
    plan = find_method("torch_pruning")(problem).plan
    assert plan.cost["macs_pruned"] == pytest.approx(0.5 * plan.cost["macs_dense"], rel=0.01)
    assert plan.method.startswith("torch-pruning 1.")


def test_swin_is_refused():
    torch.manual_seed(0)
    problem = tiny_problem("torch_pruning", build("swin_tiny_patch4_window7_224", **SWIN))
    with pytest.raises(UsageError, match=r"cannot prune this SwinTransformer.*isomorphic"):
        find_method("torch_pruning")(problem)


def test_norms_of_queries_and_other_kinds_are_refused():
    problem = tiny_problem("torch_pruning", vit(qk_norm=True))
    with pytest.raises(UsageError, match="norms of queries"):
        find_method("torch_pruning")(problem)
    problem = tiny_problem("torch_pruning", vit())
    with pytest.raises(UsageError, match="'block'"):
        find_method("torch_pruning")(replace(problem, units=find_units(problem.model, ("hidden", "block"))))


def test_where_the_package_is_missing_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(UsageError, match=r"pip install 'xpruner\[bench\]'"):
        find_method("torch_pruning")(tiny_problem("torch_pruning", vit()))
