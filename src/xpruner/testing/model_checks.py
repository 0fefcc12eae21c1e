"""What holds for every model that is cut: each check raises AssertionError where it does not."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.data.spec import InputSpec
from xpruner.measure.macs import count_macs, count_params
from xpruner.models.checkpoint import load, save
from xpruner.plan.plan import Plan
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import tensors_of
from xpruner.surgery import apply
from xpruner.testing.models import set_fused
from xpruner.units import Units, find_units
from xpruner.units.gates import gating

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Largest difference, as a share of the largest output, or of 1 where no output is larger."""
VISIBLE = 1e-4
"""A plan that changes the output by less proves nothing."""
STEP = 0.01
"""Length of the step by which a model trains."""


def check_gated_is_cut(model: nn.Module, plan: Plan, images: Tensor, units: Units | None = None) -> None:
    """Checks that closing units by gates and cutting them give the same output, to 1e-5 in float32.

    Args:
        model: The dense model; it stays as it is.
        plan: Which of its units to keep.
        images: (batch, channels, height, width).
        units: Of the model, where they are at hand; else those of the plan's kinds are found.

    Raises:
        AssertionError: If the outputs differ.
    """
    gated = _gated(model, units or _units_of(model, plan, images), plan.gates(), images)
    error = _distance(_outputs(apply(model, plan), images), gated)
    allowed = TOLERANCE[images.dtype]
    assert error <= allowed, (
        f"The model cut in its {_kinds(plan)} units and the gated one differ by {error:.1e} of their largest output, "
        f"where {allowed:.0e} is allowed; the adapter cuts something else than what its gate closes."
    )


def check_gates_act_on_their_image(model: nn.Module, plan: Plan, images: Tensor, units: Units | None = None) -> None:
    """Checks that gates of one image change its output, and that of no other image.

    Args:
        model: The dense model; it stays as it is.
        plan: Its gates are those of the second image; the first has open ones.
        images: (2, channels, height, width).
        units: As for :func:`check_gated_is_cut`.

    Raises:
        AssertionError: If they change another output, or not their own, or by too little to be seen.
    """
    units = units or _units_of(model, plan, images)
    gates = plan.gates()
    dense, gated = _outputs(model, images), _gated(model, units, gates, images)
    opened = {key: torch.stack([torch.ones_like(gate), gate]) for key, gate in gates.items()}
    mixed = _gated(model, units, opened, images)
    change, kinds, allowed = _distance(gated, dense), _kinds(plan), TOLERANCE[images.dtype]
    assert change > VISIBLE, (
        f"Closing {kinds} units changes the output by {change:.1e}, too little to prove anything; add noise to the "
        "weights of the model with xpruner.testing.stir, or see whether the gate acts on what the units put out."
    )
    assert _distance([x[:1] for x in mixed], [x[:1] for x in dense]) <= allowed, (
        f"The gates of the {kinds} units of one image act on another; the module's batch does not come first."
    )
    assert _distance([x[1:] for x in mixed], [x[1:] for x in gated]) <= allowed, (
        f"The gates of the {kinds} units of one image do not act as the same gates do on all images."
    )


def check_costs(model: nn.Module, plan: Plan, units: Units | None = None, tolerance: float = 1e-9) -> None:
    """Checks that the units predict what a cut model costs: MACs by torch's own counter, and parameters.

    Args:
        model: The dense model; it stays as it is.
        plan: Which of its units to keep.
        units: As for :func:`check_gated_is_cut`.
        tolerance: Largest error of the MACs, as a share of them.

    Raises:
        AssertionError: If a prediction is wrong.
    """
    units = units or _units_of(model, plan)
    pruned = apply(model, plan)
    counted = {"macs": count_macs(pruned, units.input_size), "params": count_params(pruned)}
    for resource, count in counted.items():
        predicted = units.cost(plan.keep, resource)
        error = abs(predicted / count - 1)
        assert error <= (tolerance if resource == "macs" else 1e-9), (
            f"The {_kinds(plan)} units predict {predicted:,.0f} {resource} of the cut model, which has {count:,.0f}; "
            "see the shares of the adapter, and what its slices leave out."
        )


def check_trains(model: nn.Module, images: Tensor) -> list[str]:
    """Checks that one training step works: finite gradients, other outputs.

    Args:
        model: Any model; a copy of it is trained.
        images: (batch, channels, height, width).

    Returns:
        The names of the parameters that had a gradient.

    Raises:
        AssertionError: If no parameter has a gradient, one is not finite, or the step changes nothing.
    """
    trained = copy.deepcopy(model)
    before = _outputs(trained, images)
    trained.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = [tensor for tensor in tensors_of(trained(images)) if tensor.requires_grad]
    assert found, "No output of the model depends on a parameter; a cut parameter has lost its requires_grad."
    torch.stack([tensor.square().mean() for tensor in found]).sum().backward()
    gradients = {name: p.grad for name, p in trained.named_parameters() if p.grad is not None}
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), f"The gradient of {name!r} is not finite."
    torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    torch.optim.SGD(trained.parameters(), STEP).step()
    after = _outputs(trained, images)
    assert all(torch.isfinite(tensor).all() for tensor in after), "After one step an output is not finite."
    assert _distance(after, before) > 0, "One training step changes no output."
    return list(gradients)


def check_saves_and_loads(model: nn.Module, folder: str | Path, kwargs: Mapping[str, Any] | None = None) -> None:
    """Checks that a model comes back from its files bit for bit: its weights and what it computes.

    Args:
        model: Of an architecture that timm or transformers can make again; dense or cut, in float32.
        folder: Where it is saved.
        kwargs: The arguments of ``timm.create_model``, where they cannot be deduced.

    Raises:
        AssertionError: If something differs.
        UsageError: If the model cannot be saved at all.
    """
    save(model, folder, kwargs=kwargs)
    loaded = load(folder)
    tensors, found = model.state_dict(), loaded.state_dict()
    assert tensors.keys() == found.keys(), f"Saved and loaded tensors differ: {sorted(tensors.keys() ^ found.keys())}."
    for name, tensor in tensors.items():
        assert torch.equal(tensor.cpu(), found[name]), f"{name!r} is not what was saved."
    images = torch.randn(2, *InputSpec.of(model).shape, generator=torch.Generator().manual_seed(0))
    saved = copy.deepcopy(model).cpu()
    for each in (saved, loaded):  # a file does not hold whether attention is fused
        set_fused(each, False)
    pairs = zip(_outputs(saved, images), _outputs(loaded, images), strict=True)
    assert all(torch.equal(before, after) for before, after in pairs), (
        "The loaded model has the same weights and computes something else; an attribute that depends on the number of "
        "units is not set when it is rebuilt."
    )


def _units_of(model: nn.Module, plan: Plan, images: Tensor | None = None) -> Units:
    kinds = dict.fromkeys(key.rpartition(":")[2] for key in plan.keep)
    return find_units(model, list(kinds), None if images is None else tuple(images.shape[1:]))  # type: ignore[arg-type]


def _kinds(plan: Plan) -> str:
    return " and ".join(dict.fromkeys(key.rpartition(":")[2] for key in plan.keep))


def _gated(model: nn.Module, units: Units, gates: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
    with gating(model, units, gates):
        return _outputs(model, images)


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Returns the tensors that a model puts out for each image in eval mode, with the same randomness every time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model):
        torch.manual_seed(0)
        return [tensor for tensor in tensors_of(model(images)) if tensor.ndim]


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    """Returns the largest difference as a share of the largest number of each tensor, or of 1; NaN counts."""
    pairs = zip(some, others, strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).nan_to_num(float("inf")).item() for a, b in pairs)
