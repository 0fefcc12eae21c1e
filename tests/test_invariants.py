"""The promises that hold for every model and every plan."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODELS, tiny, units_of
from torch import nn

from xpruner.calibration.moments import consumer_moments
from xpruner.compensation.fit import compensate
from xpruner.config import CompensateConfig
from xpruner.errors import XPrunerError
from xpruner.masks.class_masks import ClassMasks
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.testing import check_costs, check_gated_is_cut, footprint, random_plan
from xpruner.units import KINDS, UnitGroup, Units, find_units
from xpruner.units.gates import gating
from xpruner.units.modules.branch import ConstantBranch

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))


def choices(units: Units) -> st.SearchStrategy[dict[str, list[int]]]:
    """Any units to keep: few, most, none at all; some groups may be absent."""

    def of(group: UnitGroup) -> st.SearchStrategy[list[int]]:
        everything = frozenset(range(group.size))
        least = {"qk": 1, "embed": 4}.get(group.kind, 0)  # a norm over few channels magnifies every rounding error
        few = st.frozensets(st.integers(0, group.size - 1), min_size=least)
        most = st.frozensets(st.integers(0, group.size - 1), max_size=group.size - least).map(everything.difference)
        return st.one_of(few, most).map(sorted)

    return st.fixed_dictionaries({}, optional={group.key: of(group) for group in units})


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=12)
@given(data=st.data())
def test_1_gated_and_cut_models_agree(name, fused, data):
    model, units = tiny(name, fused=fused), units_of(name)
    plan = Plan.of(units, data.draw(choices(units)))
    check_gated_is_cut(model, plan, torch.randn(2, *units.input_size), units)


FULL = [name for name in MODELS if name not in ("vit_post_norm", "vit_without_biases")]
"""Models in which every kind of unit can be cut."""


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("name", [*FULL, "vit_without_biases"])
@settings(max_examples=12)
@given(data=st.data())
def test_1_gated_and_cut_models_agree_in_every_kind_of_unit(name, fused, data):
    model = tiny(name, fused=fused)
    units = units_of(name, KINDS if name in FULL else ("head", "hidden", "v", "embed", "block"))  # it norms queries
    plan = Plan.of(units, data.draw(choices(units)))
    check_gated_is_cut(model, plan, torch.randn(2, *units.input_size), units)


@pytest.mark.parametrize("name", FULL)
@settings(max_examples=8)
@given(data=st.data())
def test_4_the_cost_of_a_plan_is_the_cost_of_its_model(name, data):
    model, units = tiny(name), units_of(name, KINDS)
    keep = data.draw(choices(units))
    keep = {key: kept or [0] for key, kept in keep.items()}  # the norm of an empty branch is kept and counts
    blocks = data.draw(st.sets(st.sampled_from([group.key for group in units if group.kind == "block"])))
    check_costs(model, Plan.of(units, keep | {key: [] for key in blocks}), units)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_3_nothing_is_left_behind(name):
    model, units, labels = tiny(name), units_of(name), torch.tensor([0, 1])
    plan = random_plan(units)
    images = torch.randn(2, *units.input_size)
    before = footprint(model)
    with gating(model, units, plan.gates()), ClassMasks(units, 5).gating(model, labels):
        model(images)
    find_units(model)
    consumer_moments(model, units, [(images, labels)])
    for mode in ("affine", "mean", "sequential"):
        pruned = apply(model, plan)
        cut = footprint(pruned)
        compensate(pruned, model, plan, [(images, labels)], CompensateConfig(mode))
        with pytest.raises(XPrunerError, match="not finite"):
            compensate(pruned, model, plan, [(images * torch.nan, labels)], CompensateConfig(mode))
        assert footprint(pruned) == cut
    assert footprint(model) == before


PICKLING_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PICKLING_CALLS = {"torch.save", "torch.jit.load", "torch.jit.save", "save_state", "load_state"}


def pickles(source: str) -> list[int]:
    """Returns the lines of a module that write pickles, or read them other than with ``weights_only=True``."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if _names_pickle(node) or _calls_pickle(node)]


def _names_pickle(node: ast.AST) -> bool:
    """An exception such as ``pickle.UnpicklingError`` may be named, for ``torch.load`` raises it."""
    if isinstance(node, ast.Import):
        return any(alias.name in PICKLING_MODULES and alias.asname for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module in PICKLING_MODULES and not all(alias.name.endswith("Error") for alias in node.names)
    return isinstance(node, ast.Attribute) and (
        ast.unparse(node.value) in PICKLING_MODULES and not node.attr.endswith("Error")
    )


def _calls_pickle(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name == "torch.load":
        return keywords.get("weights_only") != "True"
    return keywords.get("allow_pickle") == "True" or bool({name, name.split(".")[-1]} & PICKLING_CALLS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_6_no_pickles(path):
    assert pickles(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import pickle\npickle.dump(x, f)", [2]),
        ("import pickle as p", [1]),
        ("import pickle\ntry: ...\nexcept pickle.UnpicklingError: ...", []),
        ("import os\nfrom joblib import dump", [2]),
        ("torch.save(x, p)", [1]),
        ("torch.load(p)", [1]),
        ("torch.load(p, weights_only=False)", [1]),
        ("x = torch.load(p, weights_only=True)", []),
        ("numpy.load(p, allow_pickle=True)", [1]),
        ("accelerator.save_state(p)", [1]),
        ("safetensors.torch.save(x)", []),
    ],
)
def test_6_the_scan_sees_pickles(source, lines):
    assert pickles(source) == lines


@pytest.mark.parametrize("name", MODELS)
def test_8_a_stock_model_comes_out(name):
    dense, plan = tiny(name), random_plan(units_of(name))
    pruned = apply(dense, plan)
    compensate(pruned, dense, plan, [(torch.randn(4, *units_of(name).input_size), torch.zeros(4))])
    assert {type(module) for module in pruned.modules()} == {type(module) for module in dense.modules()}
    hooks = [attribute for attribute in vars(nn.Module()) if attribute.endswith("_hooks")]
    assert not any(getattr(module, attribute) for module in pruned.modules() for attribute in hooks)
    assert [name for name, _ in pruned.named_modules()] == [name for name, _ in dense.named_modules()]


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_8_torch_export_sees_nothing_unusual(name):
    units = units_of(name)
    plan = random_plan(units)
    plan.keep[units.groups[0].key] = []
    pruned = apply(tiny(name), plan)
    assert isinstance(pruned.get_submodule(units.groups[0].module), ConstantBranch)
    images = torch.randn(1, *units.input_size)
    exported = torch.export.export(pruned, (images,)).module()
    torch.testing.assert_close(exported(images), pruned(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_8_a_model_cut_in_every_way_can_be_exported(name):
    units = find_units(tiny(name), KINDS)
    keep = {group.key: range((group.size + 1) // 2) for group in units}
    keep[next(group.key for group in units if group.kind == "block")] = range(0)
    pruned, images = apply(tiny(name), Plan.of(units, keep)), torch.randn(1, *units.input_size)
    exported = torch.export.export(pruned, (images,)).module()
    torch.testing.assert_close(exported(images), pruned(images), rtol=1e-5, atol=1e-5)
