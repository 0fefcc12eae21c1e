import pytest
import torch
from tiny_models import footprint, tiny, units_of

from xpruner.errors import UsageError
from xpruner.units import KINDS, Gate, UnitGroup, Units, find_units
from xpruner.units.gates import expand_gates, gating

SINGLE = Gate("")
MODELS = ["vit", "vit_post_norm", "swin", "swin_padded_windows"]


def test_gates_of_hidden_units_are_used_as_they_are():
    gate = torch.tensor([1.0, 0.5])
    assert torch.equal(expand_gates(gate, torch.zeros(3, 4, 2), SINGLE).flatten(), gate)


def test_gates_of_heads_are_repeated_over_their_channels():
    assert expand_gates(torch.tensor([1.0, 0.5]), torch.zeros(3, 4, 6), Gate("", inner=3)).flatten().tolist() == [
        1,
        1,
        1,
        0.5,
        0.5,
        0.5,
    ]


def test_a_samples_gates_hold_for_all_its_tokens():
    gates = expand_gates(torch.tensor([[1.0, 0.5], [0.0, 2.0]]), torch.zeros(2, 4, 2), SINGLE)
    assert gates.tolist() == [[[1.0, 0.5]], [[0.0, 2.0]]]


def test_a_samples_gates_hold_for_all_its_windows():
    gates = expand_gates(
        torch.tensor([[1.0], [2.0]]), torch.zeros(6, 4, 2), Gate("", inner=2)
    )  # three windows a sample
    assert gates[:, 0].tolist() == [[1, 1], [1, 1], [1, 1], [2, 2], [2, 2], [2, 2]]


def test_a_samples_gates_hold_for_all_rows_and_columns_of_a_map():
    assert expand_gates(torch.ones(2, 5), torch.zeros(2, 4, 3, 5), SINGLE).shape == (2, 1, 1, 5)


def test_gates_follow_the_input_in_type_and_device():
    x = torch.zeros(2, 4, 2, dtype=torch.bfloat16, device="meta")
    gates = expand_gates(torch.ones(2), x, SINGLE)
    assert (gates.dtype, gates.device) == (x.dtype, x.device)


def test_units_that_repeat_are_gated_wherever_they_lie():
    gates = expand_gates(torch.tensor([1.0, 0.5]), torch.zeros(3, 4, 8), Gate("", outer=2, inner=2))
    assert gates.flatten().tolist() == [1, 1, 0.5, 0.5, 1, 1, 0.5, 0.5]


def test_channels_behind_those_of_the_units_stay_open():
    assert expand_gates(torch.zeros(2), torch.zeros(3, 4, 5), SINGLE).flatten().tolist() == [0, 0, 1, 1, 1]


def test_the_channels_of_a_convolution_lie_in_the_second_dimension():
    gates = expand_gates(torch.tensor([[1.0, 0.5], [0.0, 2.0]]), torch.zeros(2, 2, 3, 3), SINGLE, axis=1)
    assert gates.shape == (2, 2, 1, 1)
    assert gates.flatten().tolist() == [1, 0.5, 0, 2]


def test_a_gated_norm_looks_at_the_open_channels_alone():
    norm, x, keep = torch.nn.LayerNorm(6), torch.randn(2, 3, 6), [0, 2, 3]
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    group = UnitGroup("n:embed", "embed", "n", 6, (Gate("0", "norm"),), 1, 1)
    gates = {group.key: torch.tensor([1.0, 0, 1, 1, 0, 0])}
    with gating(torch.nn.Sequential(norm), Units((group,), 1, 1, (1, 1, 1)), gates):
        gated = norm(x)
    alone = torch.nn.functional.layer_norm(x[..., keep], (3,), norm.weight[keep], norm.bias[keep])
    torch.testing.assert_close(gated[..., keep], alone)
    assert not gated[..., [1, 4, 5]].any()


def test_a_gated_norm_of_a_half_precision_stream_is_exact_up_to_one_rounding():
    norm, x = torch.nn.LayerNorm(48), (8 + torch.randn(2, 3, 48)).bfloat16()
    group = UnitGroup("n:embed", "embed", "n", 48, (Gate("0", "norm"),), 1, 1)
    gates = {group.key: torch.ones(48)}
    with torch.autocast("cpu", torch.bfloat16):
        plain = norm(x)
        with gating(torch.nn.Sequential(norm), Units((group,), 1, 1, (1, 1, 1)), gates):
            gated = norm(x)
    exact = torch.nn.functional.layer_norm(x.double(), (48,))
    assert gated.dtype == plain.dtype
    assert torch.equal(gated, exact.to(plain.dtype))


def test_a_gated_norm_keeps_double_precision():
    norm, x = torch.nn.LayerNorm(6).double(), torch.randn(2, 6, dtype=torch.double)
    group = UnitGroup("n:embed", "embed", "n", 6, (Gate("0", "norm"),), 1, 1)
    with gating(torch.nn.Sequential(norm), Units((group,), 1, 1, (1, 1, 1)), {group.key: torch.ones(6)}):
        torch.testing.assert_close(norm(x), torch.nn.functional.layer_norm(x, (6,)), rtol=1e-12, atol=1e-12)


def test_under_autocast_gated_norms_hand_on_the_type_that_the_norms_themselves_do(tiny_swin):
    """Swin's stream is in half precision wherever the norms themselves hand it on."""
    units, images = find_units(tiny_swin, ["embed"]), torch.randn(2, 3, 32, 32)
    norms = [module for module in tiny_swin.modules() if isinstance(module, torch.nn.LayerNorm)]

    def types(gates):
        seen = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), gating(tiny_swin, units, gates):
            handles = [norm.register_forward_hook(lambda *args: seen.append(args[2].dtype)) for norm in norms]
            tiny_swin(images)
        for handle in handles:
            handle.remove()
        return seen

    plain = types({})
    assert torch.bfloat16 in plain
    assert types({group.key: torch.ones(group.size) for group in units}) == plain


def test_a_gated_block_is_between_its_input_and_its_output(tiny_vit):
    units, images = find_units(tiny_vit, ["block"]), torch.randn(2, 3, 32, 32)
    seen = []
    tiny_vit.norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    for gate in (0.0, 1.0, 0.25):
        with gating(tiny_vit, units, {"blocks.1:block": torch.tensor([gate])}):
            tiny_vit(images)
    torch.testing.assert_close(seen[2], 0.75 * seen[0] + 0.25 * seen[1])


def test_a_gate_multiplies_what_the_consumer_reads(tiny_vit):
    seen = []
    units = units_of("vit")
    mlp = tiny_vit.blocks[0].mlp
    mlp.fc1.register_forward_hook(lambda _module, _args, output: seen.append(mlp.act(output)))
    gate = torch.rand(96)
    with gating(tiny_vit, units, {"blocks.0.mlp:hidden": gate}):
        mlp.fc2.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        tiny_vit(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(seen[1], seen[0] * gate)


@pytest.mark.parametrize("name", MODELS)
def test_open_gates_change_nothing(name):
    model, units = tiny(name), units_of(name)
    images = torch.randn(2, *units.input_size)
    with torch.no_grad():
        plain = model(images)
        with gating(model, units, {group.key: torch.ones(group.size) for group in units}):
            assert torch.equal(model(images), plain)


@pytest.mark.parametrize("kinds", [KINDS[:2], KINDS[2:4], KINDS[4:]], ids=lambda kinds: "+".join(kinds))
@pytest.mark.parametrize("name", [name for name in MODELS if name != "vit_post_norm"])
def test_each_sample_is_gated_by_its_own_row(name, kinds):
    model = tiny(name)
    units = find_units(model, kinds)
    images = torch.randn(3, *units.input_size)
    tables = {group.key: torch.rand(3, group.size) for group in units}
    with torch.no_grad():
        with gating(model, units, tables):
            together = model(images)
        for i in range(3):
            with gating(model, units, {key: table[i] for key, table in tables.items()}):
                torch.testing.assert_close(together[i : i + 1], model(images[i : i + 1]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together, model(images))


def test_gradients_reach_the_gates(tiny_swin):
    units = units_of("swin")
    gates = {group.key: torch.ones(2, group.size, requires_grad=True) for group in units}
    with gating(tiny_swin, units, gates):
        tiny_swin(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(gate.grad.abs().min() > 0 for gate in gates.values())


def test_nothing_remains_after_the_block(tiny_swin):
    units, before = units_of("swin"), footprint(tiny_swin)
    with gating(tiny_swin, units, {group.key: torch.ones(group.size) for group in units}):
        assert len(tiny_swin.layers[0].blocks[0].attn.proj._forward_pre_hooks) == 1
        assert footprint(tiny_swin) != before
    assert footprint(tiny_swin) == before


def test_nothing_remains_after_an_exception(tiny_swin):
    units, before = units_of("swin"), footprint(tiny_swin)
    with pytest.raises(KeyboardInterrupt), gating(tiny_swin, units, {g.key: torch.ones(g.size) for g in units}):
        raise KeyboardInterrupt
    assert footprint(tiny_swin) == before


def test_nothing_remains_after_a_wrong_key(tiny_vit):
    units, before = units_of("vit"), footprint(tiny_vit)
    gates = {"blocks.0.attn:head": torch.ones(3), "blocks.9.attn:head": torch.ones(3)}
    with (
        pytest.raises(UsageError, match=r"Unknown unit group 'blocks.9.attn:head'"),
        gating(tiny_vit, units, gates),
    ):
        pass
    assert footprint(tiny_vit) == before
