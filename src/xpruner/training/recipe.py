"""Builds the optimizer, schedule, mixup and weight average of a FinetuneConfig from timm's."""

from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from xpruner.config import FinetuneConfig


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
