"""Wrappers around a model, and layers that something else has changed: refused, with what to do first."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from xpruner.errors import UsageError

QUANTISED = ("torch.ao.nn.", "torch.nn.quantized.", "torch.nn.intrinsic.", "bitsandbytes.", "torchao.")
SHARDED = ("torch.distributed.fsdp.", "torch.distributed._composable.")
COMPILED = ("torch.jit.", "torch.fx.graph_module")
AROUND = ("module", "_orig_mod")
"""Children under which torch keeps what it wraps: DataParallel, DistributedDataParallel, averages, compiled models."""


def check_module(model: nn.Module) -> None:
    """Raises UsageError unless a model can be cut where it stands, with what to do first.

    Refused are wrappers around a model (parallel, sharded, compiled, a Sequential, adapters), and layers whose weights
    are computed from others (adapters, parametrizations, ``torch.nn.utils.prune``) or quantised.
    """
    for path, module in model.named_modules():
        remedy = _remedy(path, module)
        if remedy:
            raise UsageError(f"The model cannot be pruned as it is: {_named(path, module)} {remedy}.")
    inner = _inner(model)
    if inner:
        kind = type(model.get_submodule(inner)).__name__
        raise UsageError(
            f"The {type(model).__name__} only wraps the {kind} that can be pruned; pass {_written(inner)} itself, with "
            "its classifier in it."
        )


def _remedy(path: str, module: nn.Module) -> str | None:
    """Returns what is the matter with one module and what to do about it, or None."""
    home, own = f"{type(module).__module__}.", module._parameters
    if home.startswith(QUANTISED):
        return "is quantised; prune the float32 model first and quantise what comes out"
    if home.startswith(SHARDED) or any(base.__name__ == "FSDPModule" for base in type(module).__mro__):
        return (
            "is sharded; gather the weights into a plain model first (get_model_state_dict with full_state_dict=True)"
        )
    if home.startswith(COMPILED):
        return "is compiled code; pass the model as it was before"
    if home.startswith("peft.") or "base_layer" in module._modules or any(name.startswith("lora_") for name in own):
        return "is an adapter beside the weights; merge the adapters first (in peft: model = model.merge_and_unload())"
    if parametrize.is_parametrized(module):
        name = next(iter(_children(module.parametrizations)))
        call = f"torch.nn.utils.parametrize.remove_parametrizations({_written(path)}, {name!r})"
        return f"is parametrized; make its {name} plain first: {call}"
    for name in own:
        undo = _undo(name, own, module._buffers)
        if undo:
            call, weight = undo
            call = f"torch.nn.utils.{call}({_written(path)}, {weight!r})"
            return f"computes its {weight} from others; make it plain first: {call}"
    if any(isinstance(parameter, UninitializedParameter) for parameter in own.values()):
        return "has no shape yet; run one image through the model first"
    return None


def _undo(name: str, parameters: Mapping[str, Any], buffers: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns which function of ``torch.nn.utils`` makes a weight plain again, and the weight's name."""
    weight = name.removesuffix("_orig")
    if weight != name and f"{weight}_mask" in buffers:
        return "prune.remove", weight
    if weight != name and f"{weight}_u" in buffers:
        return "remove_spectral_norm", weight
    weight = name.removesuffix("_g")
    if weight != name and f"{weight}_v" in parameters:
        return "remove_weight_norm", weight
    return None


def _inner(model: nn.Module) -> str | None:
    """Returns the path of the whole model inside a wrapper; None where the model itself is one, or none is inside."""
    if _is_whole(model):
        return None
    whole = (path for path, module in model.named_modules() if _is_whole(module))
    around = (name for name in AROUND if list(model._modules) == [name])
    return next(whole, None) or next(around, None)


def _is_whole(module: nn.Module) -> bool:
    """Returns whether a module is a model that timm or transformers made, whatever it is for."""
    named = (vars(module).get("pretrained_cfg") or {}).get("architecture")
    return bool(named) or any(base.__module__ == "transformers.modeling_utils" for base in type(module).__mro__)


def _children(module: Any) -> Mapping[str, nn.Module]:
    return module._modules


def _named(path: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"{path!r} ({kind})" if path else f"the {kind}"


def _written(path: str) -> str:
    """Returns a path as Python: ``model[1].blocks[0]``."""
    return "".join(["model", *(f"[{name}]" if name.isdigit() else f".{name}" for name in path.split(".") if name)])
