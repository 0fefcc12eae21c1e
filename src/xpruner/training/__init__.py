"""Training: fine-tuning with distillation that resumes exactly, and label-free evaluation."""

from xpruner.training.evaluate import evaluate, predict
from xpruner.training.finetune import finetune

__all__ = ["evaluate", "finetune", "predict"]
