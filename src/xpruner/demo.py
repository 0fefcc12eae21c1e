"""A run that needs nothing from outside: a small DeiT learns scikit-learn's digits and is pruned to half its MACs."""

import logging
from pathlib import Path

import torch

from xpruner.checkpoint import STRUCTURE, save
from xpruner.config import DataConfig, FinetuneConfig, MaskConfig, ModelConfig, RunConfig, ThresholdConfig
from xpruner.data import InputSpec, class_names, load_data
from xpruner.models import load_model
from xpruner.pipeline import PruneResult, run_pipeline
from xpruner.run import Run
from xpruner.tracking import Tracker
from xpruner.training import finetune

log = logging.getLogger("xpruner")

DENSE = ModelConfig(
    name="deit_tiny_patch16_224",
    img_size=32,
    kwargs={"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3},
)
DENSE_RECIPE = FinetuneConfig(epochs=40, lr=1e-3, distill=0.0)


def demo_config(output: str | Path = "runs/demo", seed: int = 0) -> RunConfig:
    """Returns the run of the demo: the default preset with fewer steps, on 1,437 images of 32 x 32 pixels.

    Args:
        output: The run directory; the dense model is trained into ``dense_training`` in it.
        seed: Of everything.
    """
    return RunConfig(
        budget="0.5",
        output=str(output),
        model=ModelConfig(name=str(Path(output) / "dense_training")),
        data=DataConfig(name="digits", batch_size=32),
        masks=MaskConfig(steps=50),
        thresholds=ThresholdConfig(steps=100),
        finetune=FinetuneConfig(epochs=5),
        seed=seed,
        precision="fp32",
        latency=[1, 64],
    )


def run_demo(config: RunConfig, dense: ModelConfig = DENSE, recipe: FinetuneConfig = DENSE_RECIPE) -> PruneResult:
    """Trains the dense model where ``config.model`` expects it, unless it lies there, and prunes it.

    Args:
        config: The run, as from :func:`demo_config`.
        dense: What to train.
        recipe: How.

    Raises:
        UsageError: If the output directory belongs to another run.
        XPrunerError: If a stage fails; the same call continues.
    """
    folder = Path(config.model.name)
    with Tracker(config.output):
        Run(config)  # another run's directory is refused before anything is trained
        if not (folder / STRUCTURE).exists():
            log.info("training the dense model")
            train_dense(dense, recipe, config, folder)
    return run_pipeline(config)


def train_dense(dense: ModelConfig, recipe: FinetuneConfig, config: RunConfig, folder: Path) -> None:
    """Trains a model on labels alone and saves it; a training that was stopped goes on.

    Args:
        dense: The model.
        recipe: How it is trained.
        config: Its data, seed and precision are used.
        folder: Where the model goes, and the state of its training into ``state``.
    """
    names = class_names(config.data)
    torch.manual_seed(config.seed)
    model, kwargs = load_model(dense, len(names))
    spec = InputSpec.of(model)
    finetune(
        model,
        None,
        load_data(config.data, spec, config.seed).train,
        recipe,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        seed=config.seed,
        precision=config.precision,
        state_dir=folder / "state",
    )
    save(model, folder, kwargs=kwargs, input_spec=spec, class_names=names)
