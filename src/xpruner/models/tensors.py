"""Checks that weights can be pruned (finite, of floating point) and converts them to float32."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from xpruner.errors import UsageError

log = logging.getLogger("xpruner")

READ = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
REMEDY = "give its weights in float32, float16 or bfloat16, from before it was quantised"


def check_weights(model: nn.Module, where: str) -> None:
    """Raises UsageError unless every weight of a model is finite and of floating point.

    Args:
        model: Its buffers may hold integers and infinities, as for windows and masks, but no NaN.
        where: Name of the model, for the message.
    """
    parameters = dict(model.named_parameters())
    check_tensors({**parameters, **dict(model.named_buffers())}, parameters, where)


def check_tensors(tensors: Mapping[str, Tensor], parameters: Collection[str], where: str) -> None:
    """Raises UsageError with the name of the first tensor that cannot be pruned.

    Args:
        tensors: By name, as in a ``state_dict``.
        parameters: Which of them are parameters; the others are buffers.
        where: What they belong to, for the message.
    """
    for name, tensor in tensors.items():
        learned = name in parameters
        if tensor.is_meta:
            raise UsageError(f"The weight {name!r} of {where} is on the meta device and has no value; load it first.")
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_quantized or tensor.layout != torch.strided:
            raise UsageError(f"The weight {name!r} of {where} is a {_kind(tensor)}; {REMEDY}.")
        if _is_odd(tensor.dtype) or (learned and tensor.dtype not in READ):
            raise UsageError(f"The weight {name!r} of {where} is of the type {_word(tensor.dtype)}; {REMEDY}.")
        if tensor.is_floating_point() and (tensor.isnan().any() or (learned and tensor.isinf().any())):
            count = int((~tensor.isfinite()).sum())
            raise UsageError(
                f"The weight {name!r} of {where} holds {count} values that are NaN or infinite; give weights from "
                "before the training diverged."
            )


def check_types(folder: Path, parameters: Collection[str]) -> None:
    """Raises UsageError with the name of the first tensor in a folder's safetensors whose type cannot be pruned.

    Transformers converts every type, so that the loaded weights do not show the stored one. Weights stored in another
    type are read in float32, which is logged.
    """
    others = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                few = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
                types = {name: part.get_dtype() for name, part in few.items()}
        except (SafetensorError, OSError):
            continue  # reported when the weights are read
        for name, kind in types.items():
            known = kind in ("F32", "F16", "BF16", "F64")
            if not known and (name in parameters or kind not in ("I64", "I32", "I16", "BOOL")):
                raise UsageError(f"The weight {name!r} in {path} is of the type {kind}; {REMEDY}.")
            others |= {kind} & {"F16", "BF16", "F64"}
    if others:
        _log_types(folder, others)


def in_float32(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Returns tensors with other floating-point types converted to float32, which is logged."""
    others = {_word(tensor.dtype) for tensor in tensors.values() if _is_converted(tensor)}
    if others:
        _log_types(where, others)
    return {name: tensor.float() if _is_converted(tensor) else tensor for name, tensor in tensors.items()}


def _log_types(where: object, types: Collection[str]) -> None:
    log.info("%s has weights in %s; they are read in float32.", where, " and ".join(sorted(types)))


def _is_converted(tensor: Tensor) -> bool:
    return tensor.dtype in READ and tensor.dtype != torch.float32


def _is_odd(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype not in READ


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kind(tensor: Tensor) -> str:
    return type(tensor).__name__ if type(tensor) not in (Tensor, nn.Parameter) else f"tensor in {_word(tensor.dtype)}"
