"""A run that needs nothing from outside: a small DeiT learns scikit-learn's digits and is pruned to half its MACs."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from xpruner.config import DataConfig, FinetuneConfig, MaskConfig, ModelConfig, RunConfig, ThresholdConfig
from xpruner.data import InputSpec, class_names, load_data
from xpruner.models.checkpoint import STRUCTURE, save
from xpruner.run.folder import Run
from xpruner.run.locks import working_in
from xpruner.run.pipeline import PruneResult, run_pipeline
from xpruner.run.tracking import Tracker
from xpruner.training import finetune
from xpruner.training.options import LoopOptions

log = logging.getLogger("xpruner")

ARCHITECTURE = "deit_tiny_patch16_224"
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
RECIPE = FinetuneConfig(epochs=40, lr=1e-3, mixup=0.5, distill=0.0)


def demo_config(output: str | Path = "runs/demo", seed: int = 0) -> RunConfig:
    """Returns the run of the demo: the default preset with fewer steps, on 1,438 images of 32 x 32 pixels.

    Args:
        output: The run directory; the dense model is trained into ``dense_training`` in it.
        seed: Of everything.
    """
    return RunConfig(
        budget="0.5",
        output=str(output),
        model=ModelConfig(name=str(Path(output) / "dense_training")),
        data=DataConfig(name="digits", batch_size=32),
        rounds=3,
        masks=MaskConfig(steps=30),
        thresholds=ThresholdConfig(steps=60),
        finetune=FinetuneConfig(epochs=5),
        seed=seed,
        precision="fp32",
        latency=[1, 64],
    )


def run_demo(config: RunConfig, sizes: Mapping[str, Any] = SIZES, recipe: FinetuneConfig = RECIPE) -> PruneResult:
    """Trains the dense model into the folder that ``config.model`` names, unless it lies there, and prunes it.

    Args:
        config: The run, as from :func:`demo_config`.
        sizes: Of the dense model.
        recipe: For the dense model.

    Raises:
        UsageError: If the output directory belongs to another run, or another program works in it.
        XPrunerError: If a stage fails; the same call continues.
    """
    folder = Path(config.model.name)
    with working_in(Path(config.output)), Tracker(config.output) as tracker:
        Run(config)  # another run's directory is refused before anything is trained
        tracker.open()
        if not (folder / STRUCTURE).exists():
            log.info("training the dense model")
            train_dense(folder, sizes, recipe, config)
    return run_pipeline(config)


def train_dense(folder: Path, sizes: Mapping[str, Any], recipe: FinetuneConfig, config: RunConfig) -> None:
    """Trains a model on labels alone and saves it; a training that was stopped continues.

    Args:
        folder: Where the model goes; the state of its training goes into ``state``.
        sizes: Of the model.
        recipe: How it is trained.
        config: Its data, seed and precision are used.
    """
    names = class_names(config.data)
    torch.manual_seed(config.seed)
    model = timm.create_model(ARCHITECTURE, num_classes=len(names), **sizes)
    data = load_data(config.data, InputSpec.of(model), config.seed)
    finetune(
        model,
        None,
        data.train,
        recipe,
        LoopOptions.of(config, folder / "state"),
    )
    save(model, folder, class_names=names)
