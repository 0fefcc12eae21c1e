"""Healing on models small enough to know what can be healed."""

import copy
import logging

import pytest
import torch
from tiny_models import footprint, some_plan, tiny, units_of
from tiny_transformers import tiny as of_transformers
from torch import nn

from xpruner.compensation import heal as healing
from xpruner.compensation.block_healing import distance, held_out_distance, own_parameters, variance
from xpruner.compensation.block_streams import BlockStreams
from xpruner.compensation.fit import compensate
from xpruner.compensation.heal import affordable, heal, split
from xpruner.compensation.joint_healing import divergence, loss_of
from xpruner.config import CompensateConfig
from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units

TIMM = ["vit", "vit_without_biases", "vit_post_norm", "deit_distilled", "deit3_layer_scale", "swin",
        "swin_padded_windows"]  # fmt: skip
TRANSFORMERS = ["vit classifier", "deit", "dinov2 swiglu", "swin", "swin v2", "segformer", "pvt v2", "hiera"]
QUICK = CompensateConfig("heal", steps=20, lr=1e-3)


def images_of(count: int = 64, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(size, 3, 32, 32, generator=generator), torch.zeros(size)) for _ in range(count // size)]


@torch.no_grad()
def off(pruned: nn.Module, dense: nn.Module) -> float:
    """Returns how far the logits are apart on images that nothing has seen."""
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    ours, theirs = (getattr(model(images), "logits", None) for model in (pruned, dense)) if hasattr(
        dense, "config") else (pruned(images), dense(images))  # fmt: skip
    return (ours - theirs).square().mean().item()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def with_idle_units(dense: nn.Module) -> Plan:
    """Lets four hidden units of the first MLP do all the work and four do next to nothing; keeps the idle ones alone.

    Idle units are linear in what they read, of which no consumer can make what units do that bend; their own weights
    can become those of the ones that are cut.
    """
    group = next(group for group in units_of("vit") if group.kind == "hidden")
    mlp = dense.get_submodule(group.module)
    with torch.no_grad():
        mlp.fc2.weight[:, 8:] = 0
        mlp.fc2.weight[:, :8] *= 10
        mlp.fc1.weight[:4] *= 10
        mlp.fc1.weight[4:8] *= 0.01
    return Plan.of(units_of("vit"), {group.key: range(4, 8)})


def test_units_that_other_weights_than_the_consumers_can_replace_are_healed_and_not_compensated_for():
    dense = tiny("vit")
    plan, batches = with_idle_units(dense), images_of(256, size=32)
    closed = off(compensate(apply(dense, plan), dense, plan, batches), dense)
    healed = off(heal(apply(dense, plan), dense, plan, batches, CompensateConfig("heal", steps=200, lr=1e-2)), dense)
    assert healed < 0.4 * closed


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm_come_closer_to_the_dense_one_than_in_closed_form(name):
    dense, plan = tiny(name), some_plan(units_of(name))
    batches = [(torch.randn(16, *units_of(name).input_size), torch.zeros(16)) for _ in range(4)]
    images = torch.randn(64, *units_of(name).input_size)
    pruned, healed = apply(dense, plan), heal(apply(dense, plan), dense, plan, batches, QUICK)
    with torch.no_grad():
        before, after = ((model(images) - dense(images)).square().mean() for model in (pruned, healed))
    assert after < 0.5 * before


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_models_of_transformers_are_healed_wherever_they_are_compensated(name, caplog):
    dense = of_transformers(name)
    plan = some_plan(find_units(dense))
    pruned = apply(dense, plan)
    before = off(pruned, dense)
    with caplog.at_level(logging.INFO, "xpruner"):
        heal(pruned, dense, plan, images_of(), QUICK)
    assert off(pruned, dense) < before
    assert "cannot be followed" not in caplog.text


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_where_embedding_channels_are_cut_the_kept_ones_are_followed(name, caplog):
    dense = tiny(name)
    units = find_units(dense, ["embed", "hidden"])
    plan = Plan.of(units, {group.key: range(2, group.size) for group in units})
    pruned = apply(dense, plan)
    before = off(pruned, dense)
    with caplog.at_level(logging.INFO, "xpruner"):
        heal(pruned, dense, plan, images_of(), QUICK)
    assert off(pruned, dense) < before
    assert "cannot be followed" not in caplog.text


def test_a_skipped_block_is_made_up_for_by_the_ones_behind_it():
    dense = tiny("vit")
    units = find_units(dense, ["block"])
    plan = Plan.of(units, {group.key: [] if group.key.startswith("blocks.0:") else [0] for group in units})
    closed = off(compensate(apply(dense, plan), dense, plan, images_of()), dense)
    healed = off(heal(apply(dense, plan), dense, plan, images_of(), CompensateConfig("heal", steps=60)), dense)
    assert healed < closed


def test_a_model_without_a_classifier_is_healed_on_its_features():
    dense = of_transformers("vit")
    plan = some_plan(find_units(dense))
    pruned, images = apply(dense, plan), images_of()[0][0]
    with torch.no_grad():
        before = (pruned(images).last_hidden_state - dense(images).last_hidden_state).square().mean()
        with torch.enable_grad():
            heal(pruned, dense, plan, images_of(), CompensateConfig("heal", steps=20, focus=None))
        after = (pruned(images).last_hidden_state - dense(images).last_hidden_state).square().mean()
    assert after < before


def test_blocks_that_cannot_be_followed_are_tuned_with_the_whole_network(monkeypatch, caplog):
    monkeypatch.setattr("xpruner.compensation.block_healing.block_streams", lambda *_: None)
    dense, plan = tiny("vit"), some_plan(units_of("vit"))
    closed = compensate(apply(dense, plan), dense, plan, images_of())
    with caplog.at_level(logging.INFO, "xpruner"):
        healed = heal(apply(dense, plan), dense, plan, images_of(), CompensateConfig("heal", steps=60))
    assert "blocks.0 cannot be followed by itself, and is tuned with the whole network" in caplog.text
    assert off(healed, dense) < off(closed, dense)


def test_a_network_that_lost_nothing_is_left_as_the_closed_form_leaves_it():
    """The target is reached before the first step, so that early stopping keeps what was there."""
    dense = tiny("vit")
    plan = Plan.of(units_of("vit"), {})
    at_once = heal(apply(dense, plan), dense, plan, images_of(), CompensateConfig("heal", steps=0))
    healed = heal(apply(dense, plan), dense, plan, images_of(), CompensateConfig("heal", steps=5))
    assert off(healed, dense) <= off(at_once, dense) < 1e-6


def test_without_steps_it_is_the_closed_form_on_nine_tenths_of_the_images():
    dense, plan = tiny("swin"), some_plan(units_of("swin"))
    batches = images_of(40, size=10)
    healed = heal(apply(dense, plan), dense, plan, batches, CompensateConfig("heal", steps=0))
    learned = [(images, torch.zeros(len(images))) for images in split([images for images, _ in batches])[0]]
    closed = compensate(apply(dense, plan), dense, plan, learned)
    assert same(healed, closed)


def test_hooks_modes_flags_and_gradients_are_as_before_and_the_dense_model_is_too():
    dense, plan = tiny("swin").train(), some_plan(units_of("swin"))
    pruned = apply(dense, plan)
    pruned.norm.weight.requires_grad_(False)
    kept = copy.deepcopy(dense)
    flags = [p.requires_grad for p in pruned.parameters()]
    traces = footprint(pruned), footprint(dense)
    heal(pruned, dense, plan, images_of(), QUICK)
    assert (footprint(pruned), footprint(dense)) == traces
    assert [p.requires_grad for p in pruned.parameters()] == flags
    assert all(p.grad is None for model in (pruned, dense) for p in model.parameters())
    assert same(dense, kept)


def test_all_weights_change_those_of_norms_and_layer_scale_too():
    dense, plan = tiny("deit3_layer_scale"), some_plan(units_of("deit3_layer_scale"))
    pruned = apply(dense, plan)
    before = copy.deepcopy(pruned.state_dict())
    heal(pruned, dense, plan, images_of(), CompensateConfig("heal", steps=40))
    unchanged = {name for name, tensor in pruned.state_dict().items() if torch.equal(tensor, before[name])}
    assert unchanged == set()


def test_seed_and_images_decide_alone_and_labels_are_not_read():
    class Unreadable:
        def __getattr__(self, name):
            raise AssertionError("a label was read")

    dense, plan = tiny("vit"), some_plan(units_of("vit"))
    batches = images_of()
    torch.manual_seed(1)
    one = heal(apply(dense, plan), dense, plan, batches, QUICK, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    unlabelled = [(images, Unreadable()) for images, _ in batches]
    assert same(heal(apply(dense, plan), dense, plan, unlabelled, QUICK, seed=3), one)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(heal(apply(dense, plan), dense, plan, batches, QUICK, seed=4), one)


def test_what_a_stopped_healing_left_is_gone_on_with_bit_for_bit(tmp_path, monkeypatch):
    dense, plan, batches = tiny("vit_without_biases"), some_plan(units_of("vit_without_biases")), images_of()
    whole = heal(apply(dense, plan), dense, plan, batches, QUICK)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(healing, "heal_jointly", stop)
        heal(apply(dense, plan), dense, plan, batches, QUICK, state_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(healing, "heal_block", stop)  # all blocks are healed
        continued = heal(apply(dense, plan), dense, plan, batches, QUICK, state_dir=tmp_path)
    assert same(continued, whole)


def test_bf16_heals_too():
    dense, plan = tiny("vit"), some_plan(units_of("vit"))
    pruned = apply(dense, plan)
    before = off(pruned, dense)
    heal(pruned, dense, plan, images_of(), QUICK, precision="bf16")
    assert off(pruned, dense) < before
    assert {tensor.dtype for tensor in pruned.state_dict().values()} == {torch.float32}


def test_the_last_tenth_is_held_out_and_one_image_at_least():
    batches = [torch.arange(8), torch.arange(8, 15)]  # 15 images, of which 2 are held out
    learned, held_out = split(batches)
    assert [part.tolist() for part in learned] == [list(range(8)), list(range(8, 13))]
    assert [part.tolist() for part in held_out] == [[13, 14]]
    assert [[part.tolist() for part in parts] for parts in split([torch.arange(2)])] == [[[0]], [[1]]]
    with pytest.raises(UsageError, match="needs two calibration images or more, and there are 1"):
        split([torch.arange(1)])


def test_no_more_images_are_stored_than_memory_is_granted_for(monkeypatch, caplog):
    """A stream of the tiny ViT is 17 tokens of 24 channels."""
    batches = [torch.zeros(4, 3, 32, 32)] * 3
    assert len(torch.cat(affordable(batches, tiny("vit"), ["blocks.0", "blocks.1", ""]))) == 12
    assert not caplog.text
    monkeypatch.setattr(healing, "MOST_VALUES", 17 * 24 * 6)
    assert [len(batch) for batch in affordable(batches, tiny("vit"), ["blocks.0", "blocks.1"])] == [4, 2]
    assert "uses the first 6 of 12" in caplog.text


def test_distances_by_hand():
    streams = BlockStreams(nn.Identity(), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]] * 3), (), {},
                           torch.tensor([[[1.0, 0.0], [0.0, 4.0]]] * 3), "fp32")  # fmt: skip
    assert distance(streams, slice(0, 1), None).item() == (4 + 9) / 4
    weights = torch.tensor([0.5, 1.5])  # squares 4 of the first token, 9 of the second, over two channels
    assert distance(streams, torch.tensor([2]), weights).item() == (0.5 * 2 + 1.5 * 4.5) / 2
    assert held_out_distance(streams, weights) == (0.5 * 2 + 1.5 * 4.5) / 2
    assert distance(streams, slice(0, 1), torch.ones(5)).item() == (4 + 9) / 4  # not the tokens of this stream
    assert variance(torch.tensor([[[0.0]], [[2.0]]]), None) == 1.0
    assert variance(torch.zeros(2, 1, 1), None) == 1e-12


def test_losses_by_hand():
    ours, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]]).log_softmax(-1)
    p = theirs.exp()[0]
    assert divergence(ours, theirs).item() == pytest.approx((p * (2 * p).log()).sum().item())
    features = torch.tensor([[0.0], [2.0]])
    assert loss_of(nn.Identity(), features)(features + 0.5, features).item() == 0.25
    assert loss_of(tiny("vit"), torch.zeros(2, 5)) is divergence


def test_parameters_that_another_module_shares_are_not_a_blocks_own():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert [id(p) for p in own_parameters(model, "a")] == [id(model["a"].bias)]
