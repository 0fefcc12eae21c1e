"""What a FinetuneConfig asks for, made of timm's pieces."""

from torch import nn
from torch.optim import Optimizer

from xpruner._compat import declare_torchvision_ops
from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError

declare_torchvision_ops()
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3


def check_config(config: FinetuneConfig) -> None:
    """Raises UsageError for the first value that is out of range."""
    rules = [
        ("epochs", config.epochs >= 0, "0 or more"),
        ("steps", config.steps is None or config.steps >= 0, "0 or more"),
        ("lr", config.lr > 0, "positive"),
        ("min_lr", 0 <= config.min_lr <= config.lr, f"between 0 and lr ({config.lr})"),
        ("warmup", 0 <= config.warmup < 1, "0 or more and below 1"),
        ("weight_decay", config.weight_decay >= 0, "0 or more"),
        ("clip_grad", config.clip_grad > 0, "positive"),
        ("distill", 0 <= config.distill <= 1, "between 0 and 1"),
        ("temperature", config.temperature > 0, "positive"),
        ("features", config.features >= 0, "0 or more"),
        ("features", config.features == 0 or config.distill > 0, "0 where finetune.distill is 0"),
        ("label_smoothing", 0 <= config.label_smoothing < 1, "0 or more and below 1"),
        ("mixup", config.mixup >= 0, "0 or more"),
        ("cutmix", config.cutmix >= 0, "0 or more"),
        ("ema_decay", 0 <= config.ema_decay < 1, "0 or more and below 1"),
        ("checkpoint_every", config.checkpoint_every >= 1, "1 or more"),
    ]
    for name, holds, demand in rules:
        if not holds:
            raise UsageError(f"finetune.{name} is {getattr(config, name)}; it must be {demand}.")


def make_optimizer(model: nn.Module, config: FinetuneConfig) -> Optimizer:
    """Returns AdamW; biases, norms and what ``model.no_weight_decay()`` names are not decayed."""
    return create_optimizer_v2(model, opt="adamw", lr=config.lr, weight_decay=config.weight_decay)


def make_schedule(optimizer: Optimizer, config: FinetuneConfig, steps: int) -> CosineLRScheduler:
    """Returns the rate as a function of the update 0 .. steps - 1: linear up to ``lr``, then a cosine to ``min_lr``.

    With a warm-up of w updates the first has lr / (w + 1), update w has lr, and the last has min_lr.
    """
    warmup = min(round(config.warmup * steps), steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(steps - warmup - 1, 1),
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=config.lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )


def make_mixup(model: nn.Module, config: FinetuneConfig) -> Mixup | None:
    """Returns timm's mixup and cutmix, which also smooth the labels; None when the config asks for neither."""
    if not config.mixup and not config.cutmix:
        return None
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=model.num_classes)


def make_ema(model: nn.Module, config: FinetuneConfig) -> ModelEmaV3 | None:
    """Returns the moving average of the model's weights; None when the config asks for none."""
    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
