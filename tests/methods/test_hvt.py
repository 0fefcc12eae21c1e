"""HVT: what a pool does, what the pooled network takes over and costs, and where the pools stand."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import timm
import torch
from methods_setup import DEEP, tiny_problem
from tiny_models import VIT, build, tiny
from torch.testing import assert_close

from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.methods import find_method, hvt
from xpruner.methods.hvt import PooledViT, TokenPool, choose_pools, cost_of_pools, pooled
from xpruner.plan.budget import Budget
from xpruner.training.recipe import make_optimizer

SIZE = (3, 32, 32)


def deep() -> torch.nn.Module:
    return build("vit_tiny_patch16_224", **DEEP)


@pytest.mark.parametrize(("tokens", "left"), [(196, 97), (36, 17), (17, 8), (4, 1), (3, 1), (2, 0), (1, 0)])
def test_how_many_tokens_a_pool_leaves(tokens, left):
    assert pooled(tokens) == left


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ([0.0, 5, 1, 2, 3, 4, -1], [5.0, 3, 4]),  # windows 0-2, 2-4, 4-6
        ([0.0, 5, 1, 2], [5.0]),  # window 0-2; the last token is passed over
        ([0.0, 5, 1, 2], [5.0, 2]),  # adaptive: windows 0-1, 2-3
        ([0.0, 5, 1, 2], [5.0, 5, 2]),  # adaptive: windows 0-1, 1-2, 2-3
    ],
)
def test_a_pool_by_hand(tokens, wanted):
    pool = TokenPool(len(tokens), len(wanted), torch.zeros(2))
    assert pool.pos_embed.shape == (1, len(wanted), 2)
    x = torch.tensor(tokens)[None, :, None] * torch.tensor([1.0, 10.0])
    expected = torch.tensor(wanted)[None, :, None] * torch.tensor([1.0, 10.0])
    assert torch.equal(pool(x), expected)
    with torch.no_grad():
        pool.pos_embed.add_(7)
    assert torch.equal(pool(x), expected + 7)


@pytest.mark.parametrize(("name", "published"), [("deit_small_patch16_224", 2.40e9), ("deit_tiny_patch16_224", 0.64e9)])
def test_one_pool_after_the_first_block_costs_what_is_published(name, published):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert count_macs(PooledViT(model, {1: 97})) == pytest.approx(published, rel=5e-3)


def test_the_weights_are_taken_over():
    dense = deep()
    model = PooledViT(dense, {4: 7, 9: 3})
    ours, theirs = model.state_dict(), dense.state_dict()
    assert torch.equal(ours.pop("pos_embed"), theirs.pop("pos_embed")[:, 1:])
    assert ours.pop("blocks.pool4.pos_embed").shape == (1, 7, 24)
    assert ours.pop("blocks.pool9.pos_embed").shape == (1, 3, 24)
    del theirs["cls_token"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_pooled_network_is_the_dense_one_less_its_class_token():
    dense, images = deep(), torch.randn(2, *SIZE)
    model = PooledViT(dense, {4: 7})
    with torch.no_grad():
        x = dense.patch_embed(images) + dense.pos_embed[:, 1:]
        x = dense.blocks[:4](x)
        x = torch.stack([x[:, 2 * i : 2 * i + 3].amax(1) for i in range(7)], 1)
        x = dense.blocks[4:](x)
        assert_close(model(images), dense.head(dense.norm(x).mean(1)))


def test_a_network_without_class_token_stays_the_same_until_it_is_pooled():
    dense, images = build("vit_tiny_patch16_224", **VIT, class_token=False, global_pool="avg"), torch.randn(2, *SIZE)
    with torch.no_grad():
        assert torch.equal(PooledViT(dense, {})(images), dense(images))
        assert not torch.allclose(PooledViT(dense, {1: 7})(images), dense(images))


def test_position_embeddings_are_not_decayed():
    groups = make_optimizer(model := PooledViT(deep(), {4: 7}), FinetuneConfig()).param_groups
    exempt = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert id(model.pos_embed) in exempt and id(model.blocks.pool4.pos_embed) in exempt
    assert id(model.head.weight) not in exempt


def test_the_cost_is_torchs_count():
    model = build("vit_tiny_patch16_224", **VIT | {"depth": 4})
    cost = cost_of_pools(model, SIZE)
    for pools in ({}, {1: 7}, {0: 5}, {1: 7, 2: 3, 3: 1}, {3: 11}):
        assert cost(pools) == pytest.approx(count_macs(PooledViT(model, pools)))


@pytest.mark.parametrize(
    ("target", "pools"),
    [
        (64, {}),
        (37, {1: 7}),  # 16 + 3 x 7
        (42, {2: 7, 3: 3}),  # 32 + 7 + 3; one pool makes 37 or 46
        (38, {2: 3}),  # no set of pools by 2 reaches 37.62: 32 + 2 x 3
        (10, {0: 7, 1: 1}),  # a pool before the first block: 7 + 3 x 1
    ],
)
def test_where_the_pools_stand(target, pools):
    def cost(chosen):  # tokens, summed over four blocks
        total, n = 0, 16
        for block in range(4):
            n = chosen.get(block, n)
            total += n
        return total

    assert choose_pools(cost, 16, 4, target) == pools


def test_a_budget_that_no_pools_come_near_is_refused():
    with pytest.raises(UsageError, match="no closer to 5 MACs than 4; ask for that budget"):
        choose_pools(lambda pools: 4 * pools.get(0, 16), 16, 4, 5)
    problem = tiny_problem("hvt", budget=1.0)  # the class token alone is more than 1 %
    with pytest.raises(UsageError, match="token pools come no closer"):
        find_method("hvt")(problem)


def test_the_budget_is_met_from_below():
    model = deep()
    cost, dense = cost_of_pools(model, SIZE), count_macs(model)
    for budget in (0.2, 0.4, 0.6, 0.9):
        reached = count_macs(PooledViT(model, choose_pools(cost, 16, 12, budget * dense)))
        assert 0.99 * budget <= reached / dense <= budget


@pytest.mark.parametrize("name", ["swin", "deit_distilled"])
def test_other_models_are_refused(name):
    with pytest.raises(UsageError, match="HVT cannot pool the tokens of this"):
        find_method("hvt")(tiny_problem("hvt", tiny(name)))


def test_a_budget_of_parameters_is_refused():
    problem = replace(tiny_problem("hvt"), budget=Budget(0.5, "params"))
    with pytest.raises(UsageError, match="the budget is in params; give one in MACs"):
        find_method("hvt")(problem)


@pytest.mark.parametrize("fails", [False, True])
def test_a_teacher_that_fine_tuning_moves_is_brought_back(fails, monkeypatch):
    problem, moves = tiny_problem("hvt"), []
    monkeypatch.setattr(problem.model, "to", moves.append)

    def finetune(student, teacher, *_args, **_options):
        teacher.to("elsewhere")
        if fails:
            raise KeyboardInterrupt

    monkeypatch.setattr(hvt, "finetune", finetune)
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        find_method("hvt")(problem)
    assert moves == ["elsewhere", torch.device("cpu")]


def test_it_trains_and_removes_no_unit():
    problem = tiny_problem("hvt")
    outcome = find_method("hvt")(problem)
    assert outcome.plan.keep == {}
    assert [name for name in outcome.figures if name.startswith("tokens from block")]
    pools = [module for module in outcome.model.modules() if isinstance(module, TokenPool)]
    assert len(pools) == len(outcome.figures) and all(pool.pos_embed.abs().max() > 0 for pool in pools)
    assert not torch.equal(outcome.model.head.weight, problem.model.head.weight)
