"""Where the masks' evidence comes from, by name."""

import pytest
import torch
from tiny_models import tiny
from torch import nn

from xpruner import find_units, prune
from xpruner.config import DataConfig, FinetuneConfig, MaskConfig, ModelConfig
from xpruner.errors import UsageError
from xpruner.maps.attnlrp import attnlrp
from xpruner.masks import signals
from xpruner.masks.evidence import class_evidence
from xpruner.masks.signals import SignalRequest, find_signal, register_signal, takes_moments


def request_for(model: nn.Module, kinds: tuple[str, ...] = ("head", "hidden"), images: int = 4) -> SignalRequest:
    batches = [(torch.randn(images, 3, 32, 32), torch.arange(images) % 5)]
    return SignalRequest(model, find_units(model, kinds), batches, 5, {}, MaskConfig(), "fp32")


def test_taylor_is_class_evidence():
    asked = request_for(tiny("vit"))
    found = find_signal("taylor")(asked)
    wanted = class_evidence(asked.model, asked.units, asked.batches, 5, temperature=asked.options.temperature)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def without_biases(name: str) -> nn.Module:
    model = tiny(name)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(("bias", "pos_embed", "cls_token")):
                parameter.zero_()
    return model


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_relevance_of_units_is_what_reaches_the_pixels_and_more(name):
    """Relevance is kept by linear layers: of one image, the units of the first MLP hold what its output holds."""
    model = without_biases(name)
    asked = request_for(model, ("hidden",), images=1)
    (images, _), group = asked.batches[0], next(iter(asked.units))
    hidden = model.get_submodule(group.consumer)
    signed = {}

    def relevance_of_output(module, _args, output):
        output.register_hook(lambda gradient: signed.update(output=(gradient * output).sum().item()))

    handle = hidden.register_forward_hook(relevance_of_output)
    table = find_signal("relevance")(asked)[group.key]
    handle.remove()
    of_units = signed_relevance(model, hidden, images)
    assert of_units.sum().item() == pytest.approx(signed["output"], rel=1e-3)
    torch.testing.assert_close(table[0], of_units.square(), rtol=1e-3, atol=1e-8)


def signed_relevance(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Returns the relevance of each channel that a layer reads, summed over tokens, through the maps' own pass."""
    found = {}

    def watch(_module, args):
        x = args[0]
        x.register_hook(lambda gradient: found.update(units=(gradient * x).flatten(0, -2).sum(0).detach()))

    handle = layer.register_forward_pre_hook(watch)
    attnlrp(model, images.clone().requires_grad_(), torch.tensor([0]))
    handle.remove()
    return found["units"]


def test_heads_hold_all_the_relevance_of_the_output_of_their_projection():
    """The halves of attention's product are taken behind the heads, not of them."""
    model = without_biases("vit")
    asked = request_for(model, ("head",), images=1)
    group = next(iter(asked.units))
    projection = model.get_submodule(group.consumer)
    signed = {}

    def relevance_of_output(_module, args, output):
        x = args[0]
        x.register_hook(lambda gradient: signed.update(heads=(gradient * x).sum((0, 1))[group.channels].sum(1)))
        output.register_hook(lambda gradient: signed.update(output=(gradient * output).sum()))

    handle = projection.register_forward_hook(relevance_of_output)
    table = find_signal("relevance")(asked)[group.key]
    handle.remove()
    torch.testing.assert_close(signed["heads"].sum(), signed["output"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(table[0], signed["heads"].square(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kinds", [("head", "hidden", "qk", "v")])
def test_relevance_knows_every_kind_of_the_default(kinds):
    asked = request_for(tiny("vit"), kinds)
    tables = find_signal("relevance")(asked)
    assert all(table.shape[0] == 5 and table.isfinite().all() and (table > 0).any() for table in tables.values())
    assert {group.kind for group in asked.units} == set(kinds)


def test_relevance_of_a_model_without_rules_is_refused():
    model = tiny("vit")
    model.blocks[0].norm1 = nn.GroupNorm(1, 17)
    with pytest.raises(UsageError) as error:
        find_signal("relevance")(request_for(model))
    assert str(error.value) == (
        "masks.evidence is 'relevance': This explanation method cannot read 'blocks.0.norm1', a GroupNorm for which "
        "AttnLRP has no rule here; use 'at_removal' or 'taylor'."
    )


def test_an_unknown_signal_is_answered_with_the_nearest_before_anything_is_computed(tmp_path):
    with pytest.raises(UsageError, match=r"Unknown value of masks\.evidence 'tailor'; did you mean 'taylor'"):
        prune("vit_tiny_patch16_224", output=tmp_path / "run", masks=MaskConfig(evidence="tailor"))
    assert not (tmp_path / "run").exists()


def test_a_signal_of_ones_own_decides_what_stays(tmp_path, monkeypatch):
    """Evidence that marks the last units alone keeps them."""
    monkeypatch.setattr(signals.SIGNALS, "_things", dict(signals.SIGNALS._things))

    @register_signal("the last")
    def the_last(asked):
        return {g.key: torch.arange(g.size).float().square().expand(asked.num_classes, -1) for g in asked.units}

    assert not takes_moments("the last") and takes_moments("at_removal")
    tiny_vit = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    result = prune(
        ModelConfig("vit_tiny_patch16_224", img_size=16, kwargs=tiny_vit),
        DataConfig("digits", train_size=64, test_size=32, calibration_size=32, batch_size=32),
        budget=0.6, output=tmp_path / "run", units=["hidden"], rounds=1, masks=MaskConfig(evidence="the last"),
        finetune=FinetuneConfig(epochs=0), precision="fp32", latency=[],
    )  # fmt: skip
    kept = result.plan.keep["blocks.0.mlp:hidden"]
    assert 0 < len(kept) < 96 and kept == list(range(96 - len(kept), 96))
