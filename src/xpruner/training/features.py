"""Features: the output of a model's last block, token by token, compared with the dense model's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.runtime.hooks import hooked
from xpruner.runtime.outputs import tensors_of
from xpruner.units.registry import parts_of
from xpruner.units.streams import stream_key


def last_block(model: nn.Module) -> str:
    """Returns the path of the last block that holds attention heads or hidden units.

    Raises:
        UsageError: If there is none.
    """
    branches = [part.path for part in parts_of(model) if part.adapter.kind in ("head", "hidden")]
    if not branches:
        raise UsageError(
            f"finetune.features compares transformer blocks, and {type(model).__name__} has none; set it to 0."
        )
    above = branches[-1].rpartition(".")[0]
    return branches[-1] if isinstance(model.get_submodule(above), nn.ModuleList) else above


def kept_stream(dense: nn.Module, plan: Plan) -> list[int] | None:
    """Returns which channels of the residual stream are kept at the end of the last block; None for all."""
    cut = any(key.endswith(":embed") for key in plan.keep)
    return plan.keep.get(stream_key(dense, last_block(dense))) if cut else None


@contextmanager
def capture_block_outputs(models: Sequence[nn.Module], block: str) -> Iterator[list[Tensor]]:
    """Yields a list to which each model's forward pass adds the output of its block at this path.

    Raises:
        UsageError: If a model has no such block.
    """
    outputs: list[Tensor] = []
    modules = [_module(model, block) for model in models]
    with hooked(
        module.register_forward_hook(lambda _module, _args, output: outputs.append(tensors_of(output)[0]))
        for module in modules
    ):
        yield outputs


def _module(model: nn.Module, block: str) -> nn.Module:
    try:
        return model.get_submodule(block)
    except AttributeError as error:
        name = type(model).__name__
        raise UsageError(f"finetune.features compares blocks at {block}, which {name} lacks; set it to 0.") from error


def feature_loss(student: Tensor, teacher: Tensor, stream: Tensor | None = None) -> Tensor:
    """Returns the share of the variance of the teacher's tokens that the student misses: |s - t|^2 / |t - mean t|^2.

    0 where both are equal, 1 for a student that outputs only the mean. Where the student has other tokens than the
    teacher, as after pooling, the means over the tokens are compared [our choice].

    Args:
        student: (batch, ..., dim).
        teacher: (batch, ..., dim); no gradient flows into it.
        stream: Numbers of the teacher's channels that the student has, ascending; absent for all.

    Raises:
        UsageError: If the widths differ.
    """
    if stream is not None:
        teacher = teacher[..., stream]
    if student.shape[-1] != teacher.shape[-1]:
        raise UsageError(
            f"finetune.features compares blocks with outputs of {student.shape[-1]} and {teacher.shape[-1]} channels; "
            "give the channels that the student kept (stream), or set it to 0."
        )
    ours, theirs = (tokens.float().flatten(1, -2) for tokens in (student, teacher.detach()))
    if ours.shape != theirs.shape:
        ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    variance = (theirs - theirs.mean((0, 1))).square().sum()
    return (ours - theirs).square().sum() / variance.clamp(min=1e-12)  # none in a batch of one token
