"""The tests that the author of an adapter inherits."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.testing._pytest import pytest
from xpruner.testing.model_checks import (
    check_costs,
    check_gated_is_cut,
    check_gates_act_on_their_image,
    check_saves_and_loads,
    check_trains,
)
from xpruner.testing.models import set_fused
from xpruner.testing.plans import random_plan
from xpruner.units import Units, find_units, offered_kinds


class AdapterTests:
    """Every check of a model that is cut, for each kind of unit that it offers and for all of them together.

    A subclass defines the fixture ``model``, and others where the defaults do not fit:

        class TestMyAttention(AdapterTests):
            @pytest.fixture
            def model(self):
                return stir(timm.create_model("my_model").eval())

    Attributes:
        saveable: Whether timm or transformers can make the model again by name, so that it can be saved.
        kwargs: The arguments of ``timm.create_model``, where they cannot be deduced from the model.
        tolerance: Largest error of the predicted MACs, as a share of them.
    """

    saveable = True
    kwargs: Mapping[str, Any] | None = None
    tolerance = 1e-9

    @pytest.fixture
    def model(self) -> nn.Module:
        """A model in eval mode whose parameters all matter, see :func:`xpruner.testing.stir`."""
        raise NotImplementedError("A subclass of AdapterTests defines the fixture 'model'.")

    @pytest.fixture
    def kinds(self, model: nn.Module) -> Sequence[str]:
        """The kinds of unit that are cut; all that the model offers."""
        return offered_kinds(model)

    @pytest.fixture
    def units(self, model: nn.Module, kinds: Sequence[str]) -> Units:
        """The units of these kinds at the size of the images."""
        return find_units(model, kinds)

    @pytest.fixture
    def images(self, model: nn.Module, units: Units) -> Tensor:
        """Two images of noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, *units.input_size, generator=generator, dtype=next(model.parameters()).dtype)

    @pytest.fixture
    def plans(self, units: Units) -> list[Plan]:
        """A plan for each kind of unit by itself, and one for all."""
        return list(_plans(units))

    def test_gated_and_cut_models_agree(self, model: nn.Module, units: Units, plans: list[Plan], images: Tensor):
        model = copy.deepcopy(model)
        for fused in (True, False) if set_fused(model, True) else (True,):
            set_fused(model, fused)
            for plan in plans:
                check_gated_is_cut(model, plan, images, units)

    def test_a_gate_acts_on_its_own_image(self, model: nn.Module, units: Units, plans: list[Plan], images: Tensor):
        for plan in plans:
            check_gates_act_on_their_image(model, plan, images, units)

    def test_a_cut_model_costs_what_its_units_predict(self, model: nn.Module, units: Units, plans: list[Plan]):
        for plan in plans:
            check_costs(model, plan, units, self.tolerance)
            assert units.cost(plan.keep, "params") < units.total_params, "The cut model has no fewer parameters."

    def test_a_cut_model_trains(self, model: nn.Module, plans: list[Plan], images: Tensor):
        dense = check_trains(model, images)
        for plan in plans:
            pruned = apply(model, plan)
            left = {name for name, _ in pruned.named_parameters()}
            untrained = sorted({*dense} & left - {*check_trains(pruned, images)})
            assert not untrained, f"After surgery {', '.join(untrained)} no longer have a gradient."

    def test_a_cut_model_comes_back_from_its_files(self, model: nn.Module, plans: list[Plan], tmp_path: Path):
        if not self.saveable:
            pytest.skip("saveable is False")
        for number, plan in enumerate(plans):
            check_saves_and_loads(apply(model, plan), tmp_path / str(number), self.kwargs)


def _plans(units: Units) -> Iterator[Plan]:
    """Yields what a random plan keeps of each kind, and the plan itself where there are several."""
    together = random_plan(units)
    kinds = dict.fromkeys(group.kind for group in units)
    for kind in kinds:
        yield Plan.of(units, {group.key: together.keep[group.key] for group in units if group.kind == kind})
    if len(kinds) > 1:
        yield together
