"""The losses of fine-tuning: distance to the dense model's outputs, and to the labels."""

from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional as F

from xpruner.config import FinetuneConfig


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns T^2 KL(teacher || student) of the softened softmaxes, averaged over the batch.

    The factor T^2 keeps the gradients at one scale for every temperature.

    Args:
        student: Logits (batch, classes).
        teacher: Logits (batch, classes).
        temperature: Divides both logits.
    """
    ours, theirs = F.log_softmax(student / temperature, dim=-1), F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Returns the cross-entropy with class indices (batch,), smoothed, or with soft targets (batch, classes)."""
    loss = SoftTargetCrossEntropy() if targets.is_floating_point() else LabelSmoothingCrossEntropy(smoothing)
    return loss(logits, targets)


def finetune_loss(logits: Tensor, targets: Tensor, teacher: Tensor | None, config: FinetuneConfig) -> Tensor:
    """Returns ``distill`` times the distillation loss plus the rest times the loss on labels.

    Args:
        logits: The student's (batch, classes).
        targets: Class indices (batch,), or soft targets (batch, classes).
        teacher: The teacher's logits (batch, classes); absent for a loss on labels alone.
        config: Gives ``distill``, ``temperature`` and ``label_smoothing``.
    """
    told = label_loss(logits, targets, config.label_smoothing)
    if teacher is None:
        return told
    return config.distill * distillation_loss(logits, teacher, config.temperature) + (1 - config.distill) * told
