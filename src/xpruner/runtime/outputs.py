"""What a model returns: timm's models a tensor, those of transformers an object that may hold logits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from xpruner.errors import UsageError

CLASSIFIERS = ("classifier", "cls_classifier", "distillation_classifier")
"""What transformers calls the layers that make the logits; the last two in a distilled DeiT."""


def logits_of(output: Any) -> Tensor:
    """Returns the logits (batch, classes) of a model's output.

    Raises:
        UsageError: If the output holds none.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None:
        raise UsageError(f"The model returns a {type(output).__name__} without logits; give an image classifier.")
    return logits


def classes_of(model: Any) -> int:
    """Returns how many classes a classifier of timm or transformers distinguishes.

    The layer that makes the logits knows best: training scripts put another one there and leave the number as it was.
    """
    for path in classifiers(model)[:1]:
        return model.get_submodule(path).out_features
    return model.num_classes if hasattr(model, "num_classes") else model.config.num_labels


def classifiers(model: Any) -> list[str]:
    """Returns the paths of the linear layers that make the logits; two in a distilled model, none where it is another.

    Args:
        model: A classifier of timm or transformers.
    """
    if not hasattr(model, "get_classifier"):
        return [name for name in CLASSIFIERS if isinstance(getattr(model, name, None), nn.Linear)]
    heads = model.get_classifier()
    wanted = [id(head) for head in (heads if isinstance(heads, tuple) else (heads,))]
    return [path for path, module in model.named_modules() if id(module) in wanted and isinstance(module, nn.Linear)]


def tensors_of(output: Any) -> list[Tensor]:
    """Returns every floating-point tensor of an output, whatever it nests: mappings, tuples, lists."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]
